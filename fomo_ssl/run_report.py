"""Draw a pretraining run, finished or not, as one page: report.html in its folder.

    python -m fomo_ssl.run_report runs/mae_s
    python -m fomo_ssl.run_report runs/*

Every run writes the page itself when it ends; this does it in between. A folder that is no pretraining run is named and
does not stop the others.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from fomo_ssl.core.arguments import Arguments
from fomo_ssl.core.errors import FomoSSLError, RunError, entry


def parser() -> Arguments:
    """The command line."""
    made = Arguments(prog="python -m fomo_ssl.run_report", description="A page with the curves of a pretraining run.")
    made.add_argument("runs", nargs="+", type=Path, help="run directories of python -m fomo_ssl.pretrain")
    return made


@entry
def main(arguments: Sequence[str] | None = None) -> None:
    """Write the pages and print their paths; exit code 2 where one could not be written."""
    runs: list[Path] = parser().parse_args(arguments).runs
    from fomo_ssl.report.training_page import write_training_report

    failures = list[FomoSSLError]()
    for run in runs:
        try:
            print(write_training_report(run))
        except FomoSSLError as error:
            failures.append(error)
            if len(runs) > 1:
                print(f"fomo_ssl: {error}", file=sys.stderr)
    if failures:
        raise failures[0] if len(runs) == 1 else RunError(f"no page of {len(failures)} of {len(runs)} folders")


if __name__ == "__main__":
    main()
