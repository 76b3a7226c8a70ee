"""What a store holds and what in it is doubtful, as one page and a table of flags.

    python -m fomo_ssl.data_report --store STORE
    python -m fomo_ssl.data_report --store STORE --output report/data.html --workers 8
    python -m fomo_ssl.data_report --store STORE --verify          # no page: is every file what was written?

The store is only read. What is computed of each scan is kept in the folder `STORE.quality`, so that an interrupted run
goes on and a second run takes seconds.
"""

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fomo_ssl.core.arguments import Arguments
from fomo_ssl.core.errors import ConfigError, StoreError, entry

if TYPE_CHECKING:
    from fomo_ssl.corpus.store import Store


def parser() -> Arguments:
    """The command line."""
    made = Arguments(prog="python -m fomo_ssl.data_report", description="What a store holds and what is doubtful.")
    made.add_argument("--store", required=True, type=Path, help="folder that preprocess made")
    made.add_argument("--output", type=Path, default=Path("data_report.html"), help="page; data_flags.csv lies beside")
    made.add_argument("--cache", type=Path, help="folder for intermediate results; default: STORE.quality")
    made.add_argument("--workers", type=int, default=cores(), help="processes; default: one per core")
    made.add_argument("--verify", action="store_true", help="hold the files against their digests instead; no page")
    return made


def cores() -> int:
    """Cores that this process may use: on a shared machine fewer than there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def verify(store: "Store", workers: int) -> None:
    """Name the files that are not what was written.

    Raises:
        StoreError: there are some.
    """
    from rich.console import Console

    from fomo_ssl.corpus.verify import changed_files

    changed = changed_files(store, workers, Console(stderr=True))
    for path, wrong in changed:
        print(f"{path}: {wrong}")
    if changed:
        what = f"{len(changed)} of {len(store)} scan files are missing or not what was written"
        way_out = "Copy them again, or preprocess into a new store"
        raise StoreError(what, where=store.path, way_out=way_out)
    print(f"{len(store)} scan files are what was written")


@entry
def main(arguments: Sequence[str] | None = None) -> None:
    """Check the store, write the page and the flags, print how many there are."""
    options = parser().parse_args(arguments)
    if options.workers < 1:
        raise ConfigError(f"--workers is {options.workers}", way_out="give 1 or more")
    if options.output.is_dir():
        raise ConfigError("is a folder", where=options.output, way_out="give the page's name, such as data_report.html")

    # Imported here: worker processes import this module as their main module and need none of it.
    from rich.console import Console

    from fomo_ssl.corpus.quality import assess
    from fomo_ssl.corpus.store import Store
    from fomo_ssl.report.data_page import write_data_report

    store = Store.open(options.store)
    if options.verify:
        verify(store, options.workers)
        return
    found = assess(store, cache=options.cache, workers=options.workers, console=Console(stderr=True))
    flags = write_data_report(found, options.output)
    for flag, count in Counter(finding.flag.value for finding in found.findings).items():
        print(f"{count:6d} {flag}")
    print(f"{len(store)} scans, {len({finding.row for finding in found.findings})} with a flag")
    print(f"{options.output}\n{flags}")


if __name__ == "__main__":
    main()
