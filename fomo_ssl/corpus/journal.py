"""What a run has finished so far: shards of outcomes, each committed whole, so that a killed run goes on from there.

A scan counts as done when its outcome is in a shard, in the finished index or in `quarantine.csv`, under the same path
and file size. Scan files are written before their shard; the work of a lost shard is repeated and gives the same bytes.
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
from fomo_ssl.corpus.schema import SCHEMA, VERSION
from fomo_ssl.corpus.store import INDEX, read_facts, read_index
from fomo_ssl.imaging.canonical import CanonicalSpec

QUARANTINE = "quarantine.csv"
_REJECTED_KEY = b"rejected"
_COLUMNS = ("path", "reason", "detail", "dataset", "sequence", "source_bytes")


@dataclass(frozen=True)
class Rejected:
    """A line of `quarantine.csv`."""

    path: str
    reason: str
    detail: str
    dataset: str
    sequence: str
    source_bytes: int


class Journal:
    """The shards of one store, in its folder `journal`, which exists only while the store is being made."""

    def __init__(self, store: Path, spec: CanonicalSpec, config: dict[str, Any]) -> None:
        self.store, self.folder = store, store / "journal"
        plan = json.loads(json.dumps({"schema": VERSION, "spec": asdict(spec), "config": config}))
        self._check_plan(plan)
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(self.folder / "plan.json", plan)
        self._next = len(self._shards())

    def commit(self, outcomes: Iterable[Outcome]) -> None:
        """Write outcomes as one shard, whole or not at all."""
        outcomes = list(outcomes)
        if not outcomes:
            return
        rejected = [asdict(_rejected(outcome)) for outcome in outcomes if outcome.cells is None]
        schema = SCHEMA.with_metadata({_REJECTED_KEY: json.dumps(rejected)})
        table = pa.Table.from_pylist([outcome.cells for outcome in outcomes if outcome.cells is not None], schema)
        with atomic_file(self.folder / f"{self._next:06d}.arrow") as file, pa.ipc.new_file(file, schema) as writer:
            writer.write_table(table)
        self._next += 1

    def finished(self, sizes: dict[str, int]) -> tuple[pa.Table, list[Rejected]]:
        """Index rows and rejections that still hold for files of the given sizes, in the order of `sizes`."""
        tables = [read_index(self.store)] if (self.store / INDEX).exists() else []
        rejected = {line.path: line for line in _read_quarantine(self.store / QUARANTINE)}
        for shard in self._shards():
            table = pa.ipc.open_file(pa.memory_map(str(shard))).read_all()
            lines = [_line(cells) for cells in json.loads(table.schema.metadata[_REJECTED_KEY])]
            rejected |= {line.path: line for line in lines}
            tables.append(table.replace_schema_metadata(None))
        accepted = _latest(pa.concat_tables([SCHEMA.empty_table(), *tables]), sizes)
        taken = set(accepted.column("path").to_pylist())
        kept = [rejected[path] for path in sizes if path in rejected and path not in taken]
        return accepted, [line for line in kept if line.source_bytes == sizes[line.path]]

    def remove(self) -> None:
        """Forget the shards, once the store holds all they say."""
        shutil.rmtree(self.folder)

    def _shards(self) -> list[Path]:
        return sorted(self.folder.glob("*.arrow"))

    def _check_plan(self, plan: dict[str, Any]) -> None:
        facts = read_facts(self.store)
        path = self.folder / "plan.json"
        before = facts or (json.loads(path.read_text()) if path.exists() else plan)
        changed = [
            f"{name} {before.get(group, {}).get(name)} -> {value}"
            for group in ("spec", "config")
            for name, value in plan[group].items()
            if before.get(group, {}).get(name) != value
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
    texts = ({**line, "source_bytes": int(line["source_bytes"])} for line in lines)
    return [_line(cells) for cells in texts]


def _line(cells: dict[str, Any]) -> Rejected:
    return Rejected(**cells)


def _rejected(outcome: Outcome) -> Rejected:
    row: ScanRow = outcome.row
    return Rejected(row.path, outcome.reason, outcome.detail, row.dataset, row.sequence, outcome.source_bytes)


def _latest(table: pa.Table, sizes: dict[str, int]) -> pa.Table:
    """The last row of each path whose recorded size is the present one."""
    rows: dict[str, int] = {}
    paths, recorded = table.column("path").to_pylist(), table.column("source_bytes").to_pylist()
    for row, (path, size) in enumerate(zip(paths, recorded, strict=True)):
        if sizes.get(path) == size:
            rows[path] = row
    return table.take(pa.array([rows[path] for path in sizes if path in rows], pa.int64()))
