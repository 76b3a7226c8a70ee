"""Scans that a run met and could not read: each is said and written down once, and too many end the run."""

import csv
import io
import sys
from pathlib import Path

from fomo_ssl.core.errors import StoreError
from fomo_ssl.core.files import write_text
from fomo_ssl.data.loader import UnreadableScan


def file_of(rank: int) -> str:
    """`unreadable.csv`, or a file of its own for each further process of a run."""
    return f"unreadable_{rank}.csv" if rank else "unreadable.csv"


def unreadable_files(run: Path) -> set[str]:
    """The scans that the processes of a run, and of its earlier ones, could not read."""
    return {name for file in run.glob("unreadable*.csv") for name in _rows(file)}


def _rows(file: Path) -> dict[str, tuple[int, str]]:
    with file.open(newline="") as lines:
        return {row["file"]: (int(row["sample"]), row["error"]) for row in csv.DictReader(lines)}


class UnreadableScans:
    """Called by a loader for each scan that it replaced by another draw.

    What an earlier process of the same run met counts as well.

    Args:
        run: run directory; `unreadable.csv` in it names the scans: file, the first sample that asked for it, error.
        limit: number of different scans beyond which the run stops: then the store is at fault, not a scan.
        rank: of the process; each counts and writes what it met itself.
    """

    def __init__(self, run: Path, limit: int, rank: int = 0) -> None:
        self.file, self.limit = run / file_of(rank), limit
        self._rows = _rows(self.file) if self.file.is_file() else {}

    def __len__(self) -> int:
        return len(self._rows)

    def __call__(self, scan: UnreadableScan) -> None:
        """Note a scan.

        Raises:
            StoreError: these are more than `limit` now.
        """
        name = scan.error.where or ""
        if name in self._rows:
            return
        self._rows[name] = (scan.sample, scan.error.what)
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(["file", "sample", "error"])
        writer.writerows([file, *rest] for file, rest in sorted(self._rows.items()))
        write_text(self.file, out.getvalue())
        print(f"{name}: {scan.error.what}; another scan takes its place, see {self.file}", file=sys.stderr)
        if len(self) > self.limit:
            raise StoreError(
                f"{len(self)} scans cannot be read, listed in {self.file}; at most {self.limit} are replaced",
                way_out="Repair the store, or raise data.max_unreadable, and continue with resume=auto",
            )
