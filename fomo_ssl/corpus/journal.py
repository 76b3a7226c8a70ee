"""What a run has finished so far: shards of outcomes, each committed whole, so that a killed run goes on from there.

A file counts as done when its outcomes, one for each scan in it, are in a shard, in the finished index or in
`quarantine.csv`, under the same path and file size; a shard holds all outcomes of a file. Scan files are written before
their shard; the work of a lost shard is repeated and gives the same bytes.
"""

import csv
import io
import json
import shutil
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from fomo_ssl.core.errors import StoreError
from fomo_ssl.core.files import atomic_file, write_json, write_text
from fomo_ssl.corpus.layouts import ScanRow
from fomo_ssl.corpus.scan import Outcome
from fomo_ssl.corpus.schema import schema_of, version_of
from fomo_ssl.corpus.store import INDEX, read_facts, read_index
from fomo_ssl.imaging.canonical import CanonicalSpec

QUARANTINE = "quarantine.csv"
_REJECTED_KEY = b"rejected"
_COLUMNS = ("path", "reason", "detail", "dataset", "sequence", "source_bytes", "volume")


@dataclass(frozen=True)
class Rejected:
    """A line of `quarantine.csv`."""

    path: str
    reason: str
    detail: str
    dataset: str
    sequence: str
    source_bytes: int
    volume: int = 0


class Journal:
    """The shards of one store, in its folder `journal`, which exists only while the store is being made.

    Processes that commit at the same time need a `writer` name each; all of them see every shard.
    """

    def __init__(self, store: Path, spec: CanonicalSpec, config: dict[str, Any], writer: str = "") -> None:
        self.store, self.folder, self.writer = store, store / "journal", writer
        self.schema = schema_of(config)
        plan = json.loads(json.dumps({"schema": version_of(self.schema), "spec": asdict(spec), "config": config}))
        self._check_plan(plan)
        self.folder.mkdir(parents=True, exist_ok=True)
        # Tasks of an array find the plan of the run that sent them. If all of them wrote it at once, some would fail:
        # processes on two machines, or in two containers, may have one number, and so one temporary name.
        if not writer:
            write_json(self.folder / "plan.json", plan)
        self._next = len(list(self.folder.glob(f"{writer}[0-9]*.arrow")))

    def commit(self, outcomes: Iterable[Outcome]) -> None:
        """Write outcomes as one shard, whole or not at all."""
        outcomes = list(outcomes)
        if not outcomes:
            return
        rejected = [asdict(_rejected(outcome)) for outcome in outcomes if outcome.cells is None]
        schema = self.schema.with_metadata({_REJECTED_KEY: json.dumps(rejected)})
        table = pa.Table.from_pylist([outcome.cells for outcome in outcomes if outcome.cells is not None], schema)
        with (
            atomic_file(self.folder / f"{self.writer}{self._next:06d}.arrow") as file,
            pa.ipc.new_file(file, schema) as writer,
        ):
            writer.write_table(table)
        self._next += 1

    def finished(self, sizes: dict[str, int]) -> tuple[pa.Table, list[Rejected]]:
        """Index rows and rejections that still hold for files of the given sizes, in the order of files and volumes."""
        tables = [read_index(self.store)] if (self.store / INDEX).exists() else []
        rejected = {(line.path, line.volume): line for line in _read_quarantine(self.store / QUARANTINE)}
        for shard in self._shards():
            table = pa.ipc.open_file(pa.memory_map(str(shard))).read_all()
            lines = [_line(cells) for cells in json.loads(table.schema.metadata[_REJECTED_KEY])]
            # The order of writers is not that of time: a verdict on a file as it was must not hide the present one.
            rejected |= {(line.path, line.volume): line for line in lines if sizes.get(line.path) == line.source_bytes}
            tables.append(table.replace_schema_metadata(None))
        accepted = _latest(pa.concat_tables([self.schema.empty_table(), *tables]), sizes)
        taken = set(zip(accepted.column("path").to_pylist(), accepted.column("volume").to_pylist(), strict=True))
        kept = [
            line for key, line in rejected.items() if key not in taken and sizes.get(line.path) == line.source_bytes
        ]
        places = {path: at for at, path in enumerate(sizes)}
        return accepted, sorted(kept, key=lambda line: (places[line.path], line.volume))

    def remove(self) -> None:
        """Forget the shards, once the store holds all they say."""
        shutil.rmtree(self.folder)

    def _shards(self) -> list[Path]:
        return sorted(self.folder.glob("*.arrow"))

    def _check_plan(self, plan: dict[str, Any]) -> None:
        facts = read_facts(self.store)
        path = self.folder / "plan.json"
        before = facts or (json.loads(path.read_text()) if path.exists() else plan)
        # Stores begun before normalisations had names have the first of them.
        before = before | {"spec": {"normalisation": CanonicalSpec.normalisation} | before.get("spec", {})}
        changed = [
            f"{name} {before.get(group, {}).get(name)} -> {plan[group].get(name)}"
            for group in ("spec", "config")
            for name in {**plan[group], **before.get(group, {})}
            if before.get(group, {}).get(name) != plan[group].get(name)
        ]
        if before.get("schema") != plan["schema"]:
            changed.append(f"schema {before.get('schema')} -> {plan['schema']}")
        if changed:
            what = f"this store was begun with other settings ({', '.join(changed)})"
            raise StoreError(what, where=self.store, way_out="Give another store=PATH, or delete this one first")


def write_quarantine(store: Path, rejected: list[Rejected]) -> None:
    """Write `quarantine.csv`; there is always one, empty where nothing was rejected."""
    text = io.StringIO()
    writer = csv.DictWriter(text, _COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(line) for line in rejected)
    write_text(store / QUARANTINE, text.getvalue())


def _read_quarantine(path: Path) -> list[Rejected]:
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    # Stores made before series were read have no column for the volume.
    numbers = ({name: int(line.get(name, 0)) for name in ("source_bytes", "volume")} for line in lines)
    return [_line({**line, **cells}) for line, cells in zip(lines, numbers, strict=True)]


def _line(cells: dict[str, Any]) -> Rejected:
    return Rejected(**cells)


def _rejected(outcome: Outcome) -> Rejected:
    row: ScanRow = outcome.row
    cells = (row.path, outcome.reason, outcome.detail, row.dataset, row.sequence, outcome.source_bytes, row.volume)
    return Rejected(*cells)


def _latest(table: pa.Table, sizes: dict[str, int]) -> pa.Table:
    """The last row of each scan whose recorded file size is the present one."""
    rows: dict[tuple[int, int], int] = {}
    places = {path: at for at, path in enumerate(sizes)}
    columns = (table.column(name).to_pylist() for name in ("path", "volume", "source_bytes"))
    for row, (path, volume, size) in enumerate(zip(*columns, strict=True)):
        if sizes.get(path) == size:
            rows[places[path], volume] = row
    return table.take(pa.array([rows[key] for key in sorted(rows)], pa.int64()))
