"""The table that a sweep ends with, from the records of its runs alone."""

import csv
import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fomo_ssl.core.errors import RunError
from fomo_ssl.core.files import write_text
from fomo_ssl.training.reading import read_record

COLUMNS = (
    "run",
    "objective",
    "encoder",
    "parameters",
    "samples",
    "samples_per_second",
    "loss",
    "target",
    "metric",
    "value",
    "low",
    "high",
)


def write_table(sweep: Path) -> None:
    """Print the table of a sweep; write `sweep.csv` and `sweep.png` beside its runs.

    Raises:
        RunError: no run of the sweep was finished.
    """
    rows = collect(sweep)
    if not rows:
        raise RunError("no run of the sweep was finished", where=sweep, way_out="See the errors above")
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(sweep / "sweep.csv", text.getvalue())
    _draw(rows, sweep / "sweep.png")
    _print(rows, sweep)


def collect(sweep: Path) -> list[dict[str, Any]]:
    """One row per finished run, by parameters and samples."""
    rows = []
    for file in sweep.glob("*/run.json"):
        record = read_record(file.parent)
        if record["status"] != "finished":
            continue
        probe = file.with_name("probe.json")
        found = json.loads(probe.read_text()) if probe.exists() else {}
        recipe = record["recipe"]
        rows.append(
            {
                "run": file.parent.name,
                "objective": recipe["objective"]["name"],
                "encoder": recipe["encoder"]["name"],
                "parameters": record["n_parameters"],
                "samples": record["samples"],
                "samples_per_second": round(record["samples_per_second"], 2),
                "loss": round(record["loss_last"], 5),
                **{key: found.get(key, "") for key in ("target", "metric", "value", "low", "high")},
            }
        )
    return sorted(rows, key=lambda row: (row["objective"], row["parameters"], row["samples"]))


def _print(rows: Sequence[dict[str, Any]], sweep: Path) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    measured = next((row for row in rows if row["metric"]), None)
    caption = "downstream not measured: probe.enabled=true does"
    if measured is not None:
        caption = f"downstream: {measured['metric']} of {measured['target']} from the frozen embedding, 95 % interval"
    table = Table(title=str(sweep), caption=caption, box=SIMPLE_HEAD)
    for title in ("objective", "encoder"):
        table.add_column(title)
    for title in ("parameters", "samples", "samples/s", "loss", "downstream"):
        table.add_column(title, justify="right")
    for row in rows:
        table.add_row(
            row["objective"],
            row["encoder"],
            f"{row['parameters'] / 1e6:.2f} M",
            f"{row['samples']:,}",
            f"{row['samples_per_second']:.1f}",
            f"{row['loss']:.4f}",
            f"{row['value']:.3f} [{row['low']:.3f}, {row['high']:.3f}]" if row["metric"] else "-",
        )
    # A log file has no width of its own; the 80 columns that rich takes would break the numbers.
    Console(width=None if sys.stdout.isatty() else 100).print(table)


def _draw(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Loss, and the downstream figure where it was measured, over samples; one line per encoder."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = [("loss", "training loss")] + (
        [("value", f"{rows[0]['metric']} of {rows[0]['target']}")] if all(row["metric"] for row in rows) else []
    )
    figure = Figure(figsize=(4.5 * len(shown), 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(shown), squeeze=False)[0]
    for ax, (key, title) in zip(axes, shown, strict=True):
        for name in dict.fromkeys((row["objective"], row["encoder"]) for row in rows):
            line = [row for row in rows if (row["objective"], row["encoder"]) == name]
            ax.plot([row["samples"] for row in line], [row[key] for row in line], marker="o", label=" ".join(name))
        ax.set(xlabel="samples", ylabel=title, xscale="log")
        budgets = sorted({row["samples"] for row in rows})
        ax.set_xticks(budgets, [f"{n:,}" for n in budgets])
        ax.minorticks_off()
    axes[0].legend(fontsize=8)
    figure.savefig(path, dpi=110)
