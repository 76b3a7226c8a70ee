"""The store: an index that is memory-mapped and one compressed file per scan. Format: docs/reference/store.md."""

import functools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa

from fomo_ssl.core.errors import StoreError
from fomo_ssl.core.files import atomic_file, write_json
from fomo_ssl.core.vocabulary import Triple
from fomo_ssl.corpus.codec import BITS, LARGEST, compress_within, intensities, quantise, read_box, read_into
from fomo_ssl.corpus.layouts import ScanRow
from fomo_ssl.corpus.metadata import Metadata
from fomo_ssl.corpus.schema import MASKS_VERSION, VERSION, digest, index_row, scan_file, schema_of, version_of
from fomo_ssl.imaging.canonical import CanonicalSpec, CanonicalVolume

STORE, INDEX = "store.json", "index.arrow"


@dataclass(frozen=True)
class Store:
    """A finished store, read-only. Pickles as its path and holds no open scan file: safe to fork and to send.

    Attributes:
        path: the folder.
        spec: how its scans were made canonical.
        fingerprint: digest of the index, which holds the digest of every scan file.
        index: one row per scan (columns: `corpus.schema.SCHEMA`, with masks two more), memory-mapped.
        config: further settings of the run that made it.
    """

    path: Path
    spec: CanonicalSpec
    fingerprint: str
    index: pa.Table = field(repr=False)
    config: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def open(cls, path: str | Path) -> "Store":
        """Open a store; 300,000 rows cost milliseconds.

        Raises:
            StoreError: missing, incomplete or of another schema.
        """
        path = Path(path)
        facts = read_facts(path)
        if facts is None:
            raise StoreError(f"no finished store here ({STORE} is missing)", where=path, way_out=_MAKE)
        if facts.get("schema") not in (VERSION, MASKS_VERSION):
            what = f"store schema {facts.get('schema')}, this version reads {VERSION} and {MASKS_VERSION}"
            raise StoreError(what, where=path, way_out="Preprocess again, or install the version that wrote it")
        index = path / INDEX
        if not index.is_file() or index.stat().st_size != facts["index_bytes"]:
            raise StoreError(f"{INDEX} does not belong to {STORE}", where=path, way_out=_MAKE)
        return cls(path, CanonicalSpec(**facts["spec"]), facts["fingerprint"], read_index(path), facts["config"])

    def __len__(self) -> int:
        return int(self.index.num_rows)

    @property
    def has_masks(self) -> bool:
        """Whether scans of it may have voxels that do not count."""
        return int(self.index.schema.get_field_index("valid_share")) >= 0

    def __reduce__(self) -> tuple[Any, ...]:
        return Store.open, (self.path,)

    def read(self, row: int) -> np.ndarray:
        """A whole scan, int16 (x, y, z); normalised intensity = value * scale + offset of its row."""
        return read_box(self.path / self._cell("file", row))

    def read_crop(self, row: int, origin: Triple, size: Triple, *, flagged: bool = False) -> np.ndarray:
        """A crop, int16 of shape `size`; the parts outside the scan have its background value.

        With `flagged`, voxels that do not count have `codec.NOT_VALID` added; those outside the scan count.
        """
        crop: np.ndarray = np.empty(size, np.int16)
        self.read_crops(row, [origin], [crop], flagged=flagged)
        return crop

    def read_crops(
        self, row: int, origins: Sequence[Triple], crops: Sequence[np.ndarray], *, flagged: bool = False
    ) -> None:
        """Crops of one scan as `read_crop` gives them, written into int16 arrays; its file is opened once.

        Raises:
            StoreError: the file is missing or damaged; what the arrays hold then is not defined.
        """
        shape = [int(column[row]) for column in self._shape]
        boxes, parts = [], []
        for origin, crop in zip(origins, crops, strict=True):
            starts = [min(max(0, lo), n) for lo, n in zip(origin, shape, strict=True)]
            stops = [
                max(a, min(lo + edge, n)) for lo, edge, a, n in zip(origin, crop.shape, starts, shape, strict=True)
            ]
            x, y, z = (slice(a - lo, b - lo) for a, b, lo in zip(starts, stops, origin, strict=True))
            part = crop[x, y, z]
            if part.shape != crop.shape:
                crop.fill(self._cell("background", row))
            if part.size:
                boxes.append((slice(starts[0], stops[0]), slice(starts[1], stops[1]), slice(starts[2], stops[2])))
                parts.append(part)
        if parts:
            read_into(self.path / self._cell("file", row), boxes, parts)
        if self.has_masks and not flagged:
            for part in parts:
                intensities(part)

    @functools.cached_property
    def _shape(self) -> list[np.ndarray]:
        """Columns of the memory-mapped index as NumPy sees them: a cell of Arrow costs twenty times as much."""
        return [self.index.column(f"shape_{axis}").combine_chunks().to_numpy() for axis in "xyz"]

    def _cell(self, column: str, row: int) -> Any:
        return self.index.column(column)[row].as_py()


class StoreWriter:
    """Fills a new store scan by scan; it becomes readable with `close` (or at the end of a `with` block)."""

    def __init__(self, path: Path, spec: CanonicalSpec, config: Mapping[str, Any]) -> None:
        self.path, self.spec, self.config = path, spec, dict(config)
        self._rows: list[dict[str, Any]] = []

    @classmethod
    def create(
        cls, path: str | Path, spec: CanonicalSpec | None = None, config: Mapping[str, Any] | None = None
    ) -> "StoreWriter":
        """Begin a store in a folder that holds none yet.

        Raises:
            StoreError: there is a store already.
        """
        path = Path(path)
        if (path / STORE).exists():
            raise StoreError("there is a store here already", where=path, way_out="Choose another path")
        path.mkdir(parents=True, exist_ok=True)
        return cls(path, spec or CanonicalSpec(), config or {})

    def add(self, row: ScanRow, canonical: CanonicalVolume, metadata: Metadata | None = None) -> None:
        """Write one scan and remember its row."""
        self._rows.append(write_scan(self.path, row, canonical, metadata or Metadata(), {}))

    def close(self) -> None:
        """Write the index and then `store.json`, which makes the store a store."""
        has_masks = any(row["valid_share"] is not None for row in self._rows)
        schema = schema_of({"masks": has_masks, **self.config})
        write_index(self.path, pa.Table.from_pylist(self._rows, schema), self.spec, self.config)

    def __enter__(self) -> "StoreWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        if kind is None:
            self.close()


def write_scan(
    store: Path, row: ScanRow, canonical: CanonicalVolume, metadata: Metadata, extra: Mapping[str, Any]
) -> dict[str, Any]:
    """Write one scan's file, whole or not at all, and return its index row."""
    limit = LARGEST * max(1.0, 1.0 / math.prod(canonical.spacing))
    stored, content, bits = compress_within(quantise(canonical), limit)
    if bits < BITS:
        canonical = replace(canonical, notes=(*canonical.notes, f"stored in {bits} bits"))
    path = store / scan_file(row)
    with atomic_file(path) as file:
        file.write(content)
    facts = {"file_bytes": len(content), "file_digest": digest(content), **extra}
    return index_row(row, canonical, stored, metadata, facts)


def write_index(path: Path, table: pa.Table, spec: CanonicalSpec, config: Mapping[str, Any], **counts: int) -> None:
    """Write `index.arrow`, then `store.json` with its fingerprint."""
    sink = pa.BufferOutputStream()
    table = table.combine_chunks()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    content = sink.getvalue().to_pybytes()
    with atomic_file(path / INDEX) as file:
        file.write(content)
    facts = {
        "schema": version_of(table.schema),
        "spec": asdict(spec),
        "config": dict(config),
        "scans": table.num_rows,
        **counts,
        "index_bytes": len(content),
        "fingerprint": digest(content),
    }
    write_json(path / STORE, facts)


def read_index(path: Path) -> pa.Table:
    """The memory-mapped index of a store."""
    try:
        return pa.ipc.open_file(pa.memory_map(str(path / INDEX))).read_all()
    except (pa.ArrowInvalid, OSError) as error:
        raise StoreError(f"{INDEX} cannot be read ({error})", where=path, way_out=_MAKE) from error


def read_facts(path: Path) -> dict[str, Any] | None:
    """The content of `store.json`, None where there is none."""
    try:
        facts: dict[str, Any] = json.loads((path / STORE).read_text())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError as error:
        raise StoreError(f"{STORE} is damaged", where=path, way_out=_MAKE) from error
    return facts


_MAKE = "Make it with python -m fomo_ssl.preprocess source=PATH store=PATH (again: it resumes)"
