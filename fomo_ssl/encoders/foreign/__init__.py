"""Weights of other projects: one file a format, each tensor accounted for.

A format is a module with `NAME`, and for a checkpoint's dictionary `recognises(content)` and
`read(content, where) -> Imported`; one that can be written has `write(encoder, folder, facts)`. A new one is a file and
its name in `FORMATS`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from fomo_ssl.core.errors import ForeignWeightsError
from fomo_ssl.encoders.base import Encoder
from fomo_ssl.encoders.foreign import asparagus, fomo25, mednext, nnssl, plain, swinunetr
from fomo_ssl.encoders.foreign.transfer import Facts, Imported, Moved, TransferReport, read_tensors, transfer

__all__ = [
    "EXPORTERS",
    "FORMATS",
    "Facts",
    "Imported",
    "Moved",
    "TransferReport",
    "export_weights",
    "import_weights",
    "read_tensors",
    "transfer",
]


class Format(Protocol):
    """A module that reads a format."""

    NAME: str

    def recognises(self, content: Mapping[str, Any], /) -> bool: ...

    def read(self, content: Mapping[str, Any], where: Path, /) -> Imported: ...


class Exporter(Protocol):
    """A module that writes a format."""

    NAME: str

    def write(self, encoder: Encoder, folder: Path, facts: Facts, /) -> None: ...


FORMATS: dict[str, Format] = {module.NAME: module for module in (nnssl, fomo25, asparagus, swinunetr)}
EXPORTERS: dict[str, Exporter] = {module.NAME: module for module in (nnssl, swinunetr, mednext, plain)}


def import_weights(path: Path, name: str | None = None) -> Imported:
    """Read foreign weights; without a format's name, the first format that recognises the file.

    Raises:
        ForeignWeightsError: no format of this name, none recognises the file, or see `read_tensors` and its `read`.
    """
    known = f"known: {', '.join(FORMATS)}"
    if name is not None and name not in FORMATS:
        raise ForeignWeightsError(f"unknown format {name!r}", way_out=known)
    content = read_tensors(path)
    if name is None:
        name = next((format_.NAME for format_ in FORMATS.values() if format_.recognises(content)), None)
        if name is None:
            keys = ", ".join(map(str, list(content)[:4]))
            what = f"no known format; its keys begin with {keys}"
            raise ForeignWeightsError(what, where=path, way_out=f"Name it with --format, {known}")
    return FORMATS[name].read(content, path)


def export_weights(encoder: Encoder, folder: Path, facts: Facts, name: str) -> None:
    """Write an encoder in a foreign format.

    Raises:
        ForeignWeightsError: no format of this name is written, or it has no place for this encoder.
    """
    if name not in EXPORTERS:
        raise ForeignWeightsError(f"no format {name!r} is written", way_out=f"known: {', '.join(EXPORTERS)}")
    EXPORTERS[name].write(encoder, folder, facts)
