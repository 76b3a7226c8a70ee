"""Results that are worth keeping, in small Arrow files: an interrupted run resumes, a second run looks them up."""

import contextlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from fomo_ssl.core.files import atomic_file, remove_strays
from fomo_ssl.corpus.executors import run_local

J = TypeVar("J")

# A kill loses at most this much work.
_SHARD_ROWS, _SHARD_SECONDS = 512, 10.0


def cache_folder(store: Path) -> Path:
    """Beside the store, not in it: the store's own bytes stay a function of its source."""
    return store.resolve().with_name(f"{store.resolve().name}.quality")


class Cache:
    """Rows under a text key, in shards that are whole or not there.

    Args:
        folder: made when the first shard is written.
        name: of the kind of result, with the version of the method: another method must not find old results.
        schema: of the rows; its first column is "key".
    """

    def __init__(self, folder: Path, name: str, schema: pa.Schema) -> None:
        self.folder, self.name, self.schema = folder, name, schema

    def read(self) -> pa.Table:
        """All rows; a shard that cannot be read is as good as missing and is removed."""
        tables = [self.schema.empty_table()]
        for path in sorted(self.folder.glob(f"{self.name}-*.arrow")):
            try:
                tables.append(pa.ipc.open_file(pa.memory_map(str(path))).read_all().cast(self.schema))
            except (pa.ArrowInvalid, pa.ArrowTypeError, ValueError, OSError):
                path.unlink(missing_ok=True)
        return pa.concat_tables(tables)

    def write(self, rows: list[dict[str, Any]]) -> None:
        """Add a shard; its name is not that of another, whoever wrote it."""
        if not rows:
            return
        with atomic_file(self.folder / f"{self.name}-{time.time_ns()}.arrow") as file:
            table = pa.Table.from_pylist(rows, self.schema)
            with pa.ipc.new_file(file, self.schema) as writer:
                writer.write_table(table)

    def complete(
        self,
        function: Callable[[J], dict[str, Any]],
        jobs: Sequence[tuple[str, J]],
        workers: int,
        label: str,
        console: Console | None = None,
    ) -> pa.Table:
        """The rows of all jobs, in their order: those that are not cached yet are computed in processes and kept.

        Args:
            function: from a job to its row, without the key; must be importable by name.
            jobs: (key, job); jobs of one key are done once.
            workers: processes.
            label: of the progress bar.
            console: where progress is shown; None is silent.
        """
        remove_strays(self.folder)
        known = set(self.read().column("key").to_pylist())
        missing = {key: job for key, job in jobs if key not in known}
        if missing:
            self._work(_Keyed(function), list(missing.items()), workers, label, console)
        table = self.read()
        place = {key: row for row, key in enumerate(table.column("key").to_pylist())}
        return table.take(pa.array([place[key] for key, _ in jobs], pa.int64()))

    def _work(
        self,
        function: Callable[[tuple[str, Any]], dict[str, Any]],
        jobs: list[tuple[str, Any]],
        workers: int,
        label: str,
        console: Console | None,
    ) -> None:
        batch: list[dict[str, Any]] = []
        since = time.monotonic()
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        progress = Progress(*columns, TextColumn("left"), TimeRemainingColumn(), console=console, disable=not console)
        with progress, contextlib.closing(run_local(function, jobs, min(workers, len(jobs)))) as results:
            task = progress.add_task(label, total=len(jobs))
            try:
                for row in results:
                    batch.append(row)
                    progress.advance(task)
                    if len(batch) >= _SHARD_ROWS or time.monotonic() - since > _SHARD_SECONDS:
                        self.write(batch)
                        batch, since = [], time.monotonic()
            finally:
                self.write(batch)


class _Keyed:
    """A function on jobs as one on (key, job); a class, because a closure cannot be sent to a process."""

    def __init__(self, function: Callable[[Any], dict[str, Any]]) -> None:
        self.function = function

    def __call__(self, job: tuple[str, Any]) -> dict[str, Any]:
        return {"key": job[0], **self.function(job[1])}
