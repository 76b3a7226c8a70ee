"""The table and the figure that a sweep ends with, from the records of its runs alone."""

import csv
import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fomo_ssl.core.errors import RunError
from fomo_ssl.core.files import atomic_file, write_text
from fomo_ssl.training.reading import read_record

COLUMNS = (
    "run",
    "objective",
    "encoder",
    "augment",
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
Row = dict[str, Any]


def write_table(sweep: Path) -> None:
    """Print the table of a sweep; write `sweep.csv`, `sweep.png` and, with both in it, `sweep.md` beside its runs.

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
    draw(rows, sweep / "sweep.png")
    write_text(sweep / "sweep.md", _page(rows, sweep))
    _print(rows, sweep)


def collect(sweep: Path) -> list[Row]:
    """One row per finished run, by parameters and samples; runs of several lengths lie a folder deeper."""
    rows = []
    for file in (*sweep.glob("*/run.json"), *sweep.glob("*/*/run.json")):
        record = read_record(file.parent)
        if record["status"] != "finished":
            continue
        probe = file.with_name("probe.json")
        found = json.loads(probe.read_text()) if probe.exists() else {}
        recipe = record["recipe"]
        rows.append(
            {
                "run": file.parent.relative_to(sweep).as_posix(),
                "objective": recipe["objective"]["name"],
                "encoder": recipe["encoder"]["name"],
                "augment": recipe.get("augment", {}).get("preset", ""),
                "parameters": record["n_parameters"],
                "samples": record["samples"],
                "samples_per_second": round(record["samples_per_second"], 2),
                "loss": round(record["loss_last"], 5),
                **{key: found.get(key, "") for key in ("target", "metric", "value", "low", "high")},
            }
        )
    return sorted(rows, key=lambda row: (row["objective"], row["augment"], row["parameters"], row["samples"]))


def caption(rows: Sequence[Row]) -> str:
    """What the downstream column says."""
    measured = next((row for row in rows if row["metric"]), None)
    if measured is None:
        return "downstream not measured: probe.enabled=true does"
    return f"downstream: {measured['metric']} of {measured['target']} from the frozen embedding, 95 % interval"


def _cells(row: Row) -> list[str]:
    return [
        row["objective"],
        row["encoder"],
        row["augment"] or "-",
        f"{row['parameters'] / 1e6:.2f} M",
        f"{row['samples']:,}",
        f"{row['samples_per_second']:.1f}",
        f"{row['loss']:.4f}",
        f"{row['value']:.3f} [{row['low']:.3f}, {row['high']:.3f}]" if row["metric"] else "-",
    ]


_WORDS = ("objective", "encoder", "augment")
_NUMBERS = ("parameters", "samples", "samples/s", "loss", "downstream")


def _page(rows: Sequence[Row], sweep: Path) -> str:
    lines = [
        f"# {sweep.resolve().name}",
        "",
        f"{len(rows)} finished runs; {caption(rows)}.",
        "",
        "| " + " | ".join((*_WORDS, *_NUMBERS)) + " |",
        "|" + "---|" * len(_WORDS) + "---:|" * len(_NUMBERS),
        *("| " + " | ".join(_cells(row)) + " |" for row in rows),
        "",
        "![loss and downstream score over samples and parameters](sweep.png)",
    ]
    return "\n".join(lines) + "\n"


def _print(rows: Sequence[Row], sweep: Path) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    table = Table(title=str(sweep), caption=caption(rows), box=SIMPLE_HEAD)
    for title in _WORDS:
        table.add_column(title)
    for title in _NUMBERS:
        table.add_column(title, justify="right")
    for row in rows:
        table.add_row(*_cells(row))
    # A log file has no width of its own; the 80 columns that rich takes would break the numbers.
    Console(width=None if sys.stdout.isatty() else 110).print(table)


def draw(rows: Sequence[Row], path: Path) -> None:
    """Loss over samples; and, where it was measured, the downstream score over samples and over parameters."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    measured = [row for row in rows if row["metric"]]
    panels = [("loss", "training loss", "samples", "encoder", rows)]
    if measured:
        score = f"{measured[0]['metric']} of {measured[0]['target']}"
        panels.append(("value", score, "samples", "encoder", measured))
        panels.append(("value", score, "parameters", "samples", measured))
    figure = Figure(figsize=(4.8 * len(panels), 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for ax, (key, title, over, apart, shown) in zip(axes, panels, strict=True):
        # A line joins runs that differ in what lies along the axis alone.
        same = [name for name in ("objective", "augment", apart) if len({row[name] for row in rows}) > 1]
        lines = _lines(shown, ("objective", "augment", apart))
        for place, line in enumerate(lines):
            # Moved a little aside, so that intervals at one place do not hide each other.
            at = [row[over] * 1.02 ** (place - (len(lines) - 1) / 2) for row in line]
            label = " ".join(_short(line[0][name], name) for name in same) or None
            values = [row[key] for row in line]
            if key == "value":
                reach = [[v - row["low"] for v, row in zip(values, line, strict=True)],
                         [row["high"] - v for v, row in zip(values, line, strict=True)]]  # fmt: skip
                ax.errorbar(at, values, reach, marker="o", capsize=3, label=label)
            else:
                ax.plot(at, values, marker="o", label=label)
        ticks = sorted({row[over] for row in shown})
        ax.set(xlabel=over, ylabel=title, xscale="log")
        ax.set_xticks(ticks, [_short(tick, over) for tick in ticks])
        ax.minorticks_off()
        if same:
            ax.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2)
    with atomic_file(path) as file:
        figure.savefig(file, dpi=110, format="png")


def _lines(rows: Sequence[Row], names: Sequence[str]) -> list[list[Row]]:
    found: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        found.setdefault(tuple(row[name] for name in names), []).append(row)
    return list(found.values())


def _short(value: Any, name: str) -> str:
    if name == "parameters":
        return f"{value / 1e6:.1f} M" if value >= 1e5 else f"{value:,}"
    return f"{value:,}" if name == "samples" else str(value)
