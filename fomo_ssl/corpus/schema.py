"""The index of a store: its columns, and the row of one scan."""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any, TypeVar

import pyarrow as pa

from fomo_ssl.core.vocabulary import SEQUENCES, sequence_class
from fomo_ssl.corpus.codec import EXTENSION, StoredScan
from fomo_ssl.corpus.layouts import ScanRow
from fomo_ssl.corpus.metadata import Metadata
from fomo_ssl.imaging.canonical import CanonicalVolume

Number = TypeVar("Number", int, float)

VERSION = 1
MASKS_VERSION = 2
"""Of stores with masks: a version that knows nothing of `codec.NOT_VALID` must not read their values."""
ID_COLUMNS = ("dataset", "subject", "session", "sequence")
METADATA_COLUMNS = tuple(field.name for field in fields(Metadata))

_NUMBERS = {"age", "age_low", "age_high", "field_strength"}
_AXES = ("x", "y", "z")

SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ID_COLUMNS),
        ("sequence_class", pa.int8()),
        ("path", pa.string()),
        ("volume", pa.int32()),
        ("file", pa.string()),
        *((name, pa.float32() if name in _NUMBERS else pa.string()) for name in METADATA_COLUMNS),
        *((f"shape_{axis}", pa.int32()) for axis in _AXES),
        *((f"spacing_{axis}", pa.float32()) for axis in _AXES),
        ("affine", pa.list_(pa.float64(), 12)),
        *((f"source_shape_{axis}", pa.int32()) for axis in _AXES),
        ("source_affine", pa.list_(pa.float64(), 12)),
        ("scale", pa.float32()),
        ("offset", pa.float32()),
        ("background", pa.int16()),
        *((name, pa.float32()) for name in ("low", "high", "mean", "std")),
        *((f"box_lo_{axis}", pa.int32()) for axis in _AXES),
        *((f"box_hi_{axis}", pa.int32()) for axis in _AXES),
        ("source_bytes", pa.int64()),
        ("source_digest", pa.string()),
        ("file_bytes", pa.int64()),
        ("file_digest", pa.string()),
        ("notes", pa.string()),
    ]
)
# Columns of a store whose scans may have masks.
SCHEMA_WITH_MASKS = pa.schema([*SCHEMA, ("masks", pa.string()), ("valid_share", pa.float32())])


def schema_of(config: Mapping[str, Any]) -> pa.Schema:
    """The columns of a store with these settings."""
    return SCHEMA_WITH_MASKS if config.get("masks") else SCHEMA


def version_of(schema: pa.Schema) -> int:
    """The schema version that `store.json` states for an index of these columns."""
    return MASKS_VERSION if "valid_share" in schema.names else VERSION


def scan_file(row: ScanRow) -> str:
    """Where a scan lies in the store: a function of its path in the source, so that adding scans moves none."""
    name = digest(f"{row.path}#{row.volume}".encode())
    return f"scans/{name[:2]}/{name}{EXTENSION}"


def digest(content: bytes) -> str:
    """128 bits of BLAKE2b as hexadecimal digits."""
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def id_cells(row: ScanRow) -> dict[str, Any]:
    """The cells that a scan's place in the tree decides."""
    cells: dict[str, Any] = {name: getattr(row, name) for name in ID_COLUMNS}
    return cells | {"sequence_class": SEQUENCES.index(sequence_class(row.sequence))}


def index_row(
    row: ScanRow, canonical: CanonicalVolume, stored: StoredScan, metadata: Metadata, extra: dict[str, Any]
) -> dict[str, Any]:
    """All cells of one scan; `extra` holds what is known only of files (sizes, digests, source grid)."""
    boxes = {f"box_lo_{axis}": side.start for axis, side in zip(_AXES, canonical.box, strict=True)}
    boxes |= {f"box_hi_{axis}": side.stop for axis, side in zip(_AXES, canonical.box, strict=True)}
    return {
        **id_cells(row),
        "path": row.path,
        "volume": row.volume,
        "file": scan_file(row),
        **asdict(metadata),
        **axis_cells("shape", canonical.data.shape),
        **axis_cells("spacing", canonical.spacing),
        "affine": affine_cell(canonical.affine),
        "scale": stored.scale,
        "offset": stored.offset,
        "background": stored.background,
        **asdict(canonical.stats),
        **boxes,
        "notes": "; ".join(canonical.notes),
        "valid_share": None if canonical.valid is None else float(canonical.valid.mean()),
        **extra,
    }


def axis_cells(name: str, values: tuple[Number, ...]) -> dict[str, Number]:
    """`name_x`, `name_y`, `name_z` of a triple."""
    return {f"{name}_{axis}": value for axis, value in zip(_AXES, values, strict=True)}


def affine_cell(affine: Any) -> list[float]:
    """The first three rows of an affine, flat."""
    cells: list[float] = affine[:3].ravel().tolist()
    return cells
