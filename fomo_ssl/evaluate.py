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

if TYPE_CHECKING:
    from fomo_ssl.report.results import Row
    from fomo_ssl.report.runs import Run


@hydra_main("evaluate")
def main(config: dict[str, Any]) -> None:
    """Find the runs, write the report, print the table."""
    from fomo_ssl.report.html import write_report
    from fomo_ssl.report.runs import find_runs

    patterns = config["runs"] if isinstance(config["runs"], list) else [config["runs"]]
    runs = find_runs([str(pattern) for pattern in patterns])
    output = Path(config["output"]) if config["output"] else default_output(runs)
    print(table(write_report(runs, output)))
    for run in runs:
        if run.unfinished:
            print(f"{run.path}: {run.unfinished} of {len(run.units) + run.unfinished} units are not finished")
    print(f"{output / 'report.html'}\n{output / 'results.csv'}")


def default_output(runs: "Sequence[Run]") -> Path:
    """The run's own folder, or the deepest folder that holds all runs."""
    return Path(os.path.commonpath([run.path.resolve() for run in runs]))


def table(rows: "Sequence[Row]") -> str:
    """The scores over all cases, for a terminal: a line a method and metric."""
    from fomo_ssl.report.results import ALL

    lines = [("task", "training", "metric", "method", "score", "difference to scratch", "")]
    for row in rows:
        if row.dataset == ALL:
            apart = "" if row.difference is None else str(row.difference)
            ids = (row.setting.task, row.setting.label, row.metric, row.arm.method)
            lines.append((*ids, f"{row.score.value:.3f}", apart, row.verdict))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)


if __name__ == "__main__":
    main()
