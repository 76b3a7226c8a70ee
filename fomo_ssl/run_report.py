"""Draw a pretraining run, finished or not, as one page: report.html in its folder.

    python -m fomo_ssl.run_report runs/mae_s
    python -m fomo_ssl.run_report runs/*

Every run writes the page itself when it ends; this does it in between.
"""

from collections.abc import Sequence
from pathlib import Path

from fomo_ssl.core.arguments import Arguments
from fomo_ssl.core.errors import entry


def parser() -> Arguments:
    """The command line."""
    made = Arguments(prog="python -m fomo_ssl.run_report", description="A page with the curves of a pretraining run.")
    made.add_argument("runs", nargs="+", type=Path, help="run directories of python -m fomo_ssl.pretrain")
    return made


@entry
def main(arguments: Sequence[str] | None = None) -> None:
    """Write the pages and print their paths."""
    options = parser().parse_args(arguments)
    from fomo_ssl.report.training_page import write_training_report

    for run in options.runs:
        print(write_training_report(run))


if __name__ == "__main__":
    main()
