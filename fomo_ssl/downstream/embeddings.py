"""Embeddings of many scans as one table, from files or a store; what a kill breaks off is gone on with."""

import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from rich.console import Console
from rich.progress import track
from torch import Tensor

from fomo_ssl.bundle import ReleasedEncoder
from fomo_ssl.core.errors import Reason, RejectedScan, StoreError
from fomo_ssl.core.files import atomic_file, remove_strays, write_json
from fomo_ssl.corpus.description import DescribedScan
from fomo_ssl.corpus.store import Store

FORMATS = (".parquet", ".csv")
_TEXT = ("path", "dataset", "subject", "session", "sequence", "sex", "manufacturer", "scanner")
_NUMBERS = ("age", "field_strength")
COLUMNS = (*_TEXT, *_NUMBERS)
"""What a table tells of a scan, before the columns e0, e1 … of its embedding."""

# A kill loses at most this much work.
_PART_SCANS, _PART_SECONDS = 64, 10.0


@dataclass(frozen=True)
class Item:
    """A scan to embed: cells of `COLUMNS` (a name that is not there is not known), and how to embed it."""

    cells: Mapping[str, Any]
    embed: Callable[[ReleasedEncoder], Tensor]


@dataclass(frozen=True)
class Rejection:
    """A scan that has no embedding, and why."""

    path: str
    reason: str
    detail: str


def items_of_files(scans: Sequence[DescribedScan]) -> list[Item]:
    """Scans that are read and preprocessed as the encoder expects."""
    return [
        Item(asdict(scan.row) | asdict(scan.metadata) | {"path": str(scan.path)}, partial(_embed_file, scan.path))
        for scan in scans
    ]


def items_of_store(store: Store, encoder: ReleasedEncoder) -> list[Item]:
    """The scans of a store, whole; `path` is relative to the source of the store, `path#3` volume 3 of a series.

    Raises:
        StoreError: the store's scans are in another form than the encoder expects.
    """
    wanted, here = asdict(encoder.config.input.spec), asdict(store.spec)
    for name, value in wanted.items():
        if here[name] != value:
            what = f"its scans have {name} {here[name]}, the encoder expects {value}"
            raise StoreError(what, where=store.path, way_out=f"Preprocess with {name}={value}, or give the files")
    names = [*COLUMNS, "volume", "scale", "offset"]
    rows = store.index.select(names).to_pylist()
    for row in rows:
        row["path"] += f"#{row['volume']}" if row["volume"] else ""
    return [Item(row, partial(_embed_row, store, at, row["scale"], row["offset"])) for at, row in enumerate(rows)]


def embed_items(
    encoder: ReleasedEncoder, items: Sequence[Item], output: Path, facts: Mapping[str, Any], console: Console
) -> tuple[pa.Table, list[Rejection]]:
    """Embed scan after scan.

    What is done is kept in the folder `OUTPUT.parts` until `write_table`, and not done again where `facts` are the
    same. Rejected scans are tried again.

    Args:
        encoder: on its device.
        items: of `items_of_files` or `items_of_store`.
        output: the table to be.
        facts: what decides the embeddings; kept in the metadata of the table.
        console: where the progress is shown.

    Returns:
        The table in the order of `items`, and the rejected scans.
    """
    parts = _Parts(output, facts)
    done = parts.read()
    known = set(done.column("path").to_pylist()) if done is not None else set()
    todo = [item for item in items if item.cells["path"] not in known]
    rejected: list[Rejection] = []
    batch: list[tuple[Item, np.ndarray]] = []
    since = time.monotonic()
    label = f"embed ({len(items) - len(todo)} done before)" if known else "embed"
    try:
        for item in track(todo, description=label, console=console, disable=len(todo) < 2):
            try:
                batch.append((item, _finite(item.embed(encoder))))
            except RejectedScan as verdict:
                rejected.append(Rejection(item.cells["path"], verdict.reason.value, verdict.detail))
            if len(batch) >= _PART_SCANS or (batch and time.monotonic() - since > _PART_SECONDS):
                parts.commit(batch)
                batch, since = [], time.monotonic()
    finally:
        parts.commit(batch)
    return _joined(parts.read(), items, facts), rejected


def write_table(output: Path, table: pa.Table) -> None:
    """Write as Parquet or CSV, by the extension, whole or not at all; then the parts are removed."""
    with atomic_file(output) as file:
        if output.suffix == ".csv":
            pyarrow.csv.write_csv(table, file)
        else:
            pq.write_table(table, file)
    shutil.rmtree(_Parts.folder_of(output), ignore_errors=True)


def write_rejected(output: Path, rejected: Sequence[Rejection]) -> Path:
    """The CSV beside the table, with its header alone where nothing was rejected; so none of an older run stays."""
    path = output.with_name(f"{output.stem}_rejected.csv")
    columns = {name: [getattr(line, name) for line in rejected] for name in ("path", "reason", "detail")}
    with atomic_file(path) as file:
        pyarrow.csv.write_csv(pa.table({name: pa.array(values, pa.string()) for name, values in columns.items()}), file)
    return path


def vectors(table: pa.Table) -> np.ndarray:
    """The embeddings of a table, float32 (n, e)."""
    names = [name for name in table.column_names if name not in COLUMNS]
    return np.stack([table.column(name).to_numpy() for name in names], axis=1)


class _Parts:
    """Finished embeddings by path, in pieces that are each written whole."""

    def __init__(self, output: Path, facts: Mapping[str, Any]) -> None:
        self.folder = self.folder_of(output)
        plan = self.folder / "plan.json"
        kept = None
        with suppress(OSError, ValueError):
            kept = json.loads(plan.read_text())
        if kept != facts:
            shutil.rmtree(self.folder, ignore_errors=True)
            write_json(plan, dict(facts))
        remove_strays(self.folder)
        self._next = len(self._files())

    @staticmethod
    def folder_of(output: Path) -> Path:
        return output.with_name(f"{output.name}.parts")

    def _files(self) -> list[Path]:
        return sorted(self.folder.glob("[0-9]*.parquet"))

    def read(self) -> pa.Table | None:
        files = self._files()
        return pa.concat_tables([pq.read_table(file) for file in files]) if files else None

    def commit(self, batch: Sequence[tuple[Item, np.ndarray]]) -> None:
        if not batch:
            return
        columns = {"path": pa.array([item.cells["path"] for item, _ in batch])}
        embeddings = np.stack([embedding for _, embedding in batch])
        columns |= {f"e{i}": pa.array(column) for i, column in enumerate(np.ascontiguousarray(embeddings.T))}
        with atomic_file(self.folder / f"{self._next:06d}.parquet") as file:
            pq.write_table(pa.table(columns), file)
        self._next += 1


def _joined(done: pa.Table | None, items: Sequence[Item], facts: Mapping[str, Any]) -> pa.Table:
    """The items that are done, in their order, with what is known of them now."""
    at = {} if done is None else {path: i for i, path in enumerate(done.column("path").to_pylist())}
    kept = [item.cells for item in items if item.cells["path"] in at]
    columns = {name: pa.array([cells.get(name) for cells in kept], pa.string()) for name in _TEXT}
    columns |= {name: pa.array([cells.get(name) for cells in kept], pa.float32()) for name in _NUMBERS}
    if done is not None:
        places = pa.array([at[cells["path"]] for cells in kept], pa.int64())
        rows = done.drop_columns("path").take(places).combine_chunks()
        columns |= {name: rows.column(name) for name in rows.column_names}
    return pa.table(columns).replace_schema_metadata({"fomo_ssl": json.dumps(facts)})


def _finite(embedding: Tensor) -> np.ndarray:
    values: np.ndarray = embedding.float().cpu().numpy()
    if not np.isfinite(values).all():
        raise RejectedScan(Reason.NON_FINITE, "its embedding is not finite")
    return values


def _embed_file(path: Path, encoder: ReleasedEncoder) -> Tensor:
    return encoder.embed(path)


def _embed_row(store: Store, row: int, scale: float, offset: float, encoder: ReleasedEncoder) -> Tensor:
    image = store.read(row).astype(np.float32) * np.float32(scale) + np.float32(offset)
    return encoder.embed_normalised(image)
