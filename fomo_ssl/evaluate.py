"""Gather finetuning runs into one report: report.html, which holds its figures, and results.csv.

    python -m fomo_ssl.evaluate runs=runs/tumour
    python -m fomo_ssl.evaluate runs='runs/*_finetune_*' output=report

Runs that are still going on may be evaluated; what is not finished is left out and counted.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fomo_ssl.config import hydra_main
from fomo_ssl.core.values import path

if TYPE_CHECKING:
    from fomo_ssl.report.runs import Run


@hydra_main("evaluate")
def main(config: dict[str, Any]) -> None:
    """Find the runs, write the report, print the table."""
    from fomo_ssl.report.html import write_report
    from fomo_ssl.report.results_table import to_text
    from fomo_ssl.report.runs import find_runs

    patterns = config["runs"] if isinstance(config["runs"], list) else [config["runs"]]
    runs = find_runs([str(pattern) for pattern in patterns])
    output = path(config["output"], "output") if config["output"] else default_output(runs)
    print(to_text(write_report(runs, output)))
    for run in runs:
        if run.unfinished:
            print(f"{run.path}: {run.unfinished} of {len(run.units) + run.unfinished} units are not finished")
    print(f"{output / 'report.html'}\n{output / 'results.csv'}")


def default_output(runs: "Sequence[Run]") -> Path:
    """The run's own folder, or the deepest folder that holds all runs."""
    return Path(os.path.commonpath([run.path.resolve() for run in runs]))


if __name__ == "__main__":
    main()
