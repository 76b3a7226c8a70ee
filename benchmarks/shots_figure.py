"""Score and difference to scratch against the number of training subjects, from the `results.csv` of a report.

    python benchmarks/shots_figure.py results.csv FIGURE.png --line 'from scratch=scratch*' --line '58 heads=*pre (*'

Each `--line` names a line of the figure and, after `=`, a shell pattern of the methods that it joins: runs of other
numbers of shots carry other names. Nothing is drawn that the table does not hold.
"""

import argparse
import csv
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

Point = Mapping[str, str]
COLOURS = ("#555555", "#2f7ed8", "#e07b39", "#3a9d5d", "#b0568f")
ENDS = ("", "_low", "_high")


def read_points(table: Path, task: str | None, metric: str, pattern: str) -> list[Point]:
    """Rows of one metric over all cases of the methods that match, by number of shots.

    Raises:
        SystemExit: there is none, or a number of shots comes twice.
    """
    with table.open(newline="") as lines:
        rows = [row for row in csv.DictReader(lines) if task in (None, row["task"])]
    plain = {"dataset": "all", "metric": metric, "band": ""}
    rows = [row for row in rows if row["shots"] and all(row[key] == value for key, value in plain.items())]
    rows = [row for row in rows if row["control"] != "in-domain" and row["of_seeds"] == "mean"]
    found = sorted((row for row in rows if fnmatchcase(row["method"], pattern)), key=lambda row: int(row["shots"]))
    shots = [row["shots"] for row in found]
    if not found or len(set(shots)) < len(shots):
        known = ", ".join(sorted({row["method"] for row in rows}))
        raise SystemExit(f"{pattern}: {'no method' if not found else 'several methods'} for a number of shots; {known}")
    return found


def draw(lines: Mapping[str, Sequence[Point]], label: str, output: Path) -> None:
    """Two panels: the score with its interval, and the difference to scratch where the table has one."""
    from matplotlib.figure import Figure

    shots = sorted({int(row["shots"]) for rows in lines.values() for row in rows})
    figure = Figure(figsize=(8.4, 3.3), dpi=130, layout="constrained")
    score, apart = figure.subplots(1, 2)
    apart.axhline(0.0, color="black", linewidth=0.7, linestyle=(0, (4, 3)))
    for i, (name, rows) in enumerate(lines.items()):
        # Side by side, or intervals hide one another.
        shift = 0.07 * (i - (len(lines) - 1) / 2)
        for ax, keys in ((score, ("mean", "low", "high")), (apart, tuple(f"difference{end}" for end in ENDS))):
            known = [row for row in rows if row[keys[0]]]
            if known:
                x = [shots.index(int(row["shots"])) + shift for row in known]
                value, low, high = ([float(row[key]) for row in known] for key in keys)
                bars = [[v - e for v, e in zip(value, low, strict=True)]]
                bars += [[e - v for v, e in zip(value, high, strict=True)]]
                ax.errorbar(x, value, bars, label=name, color=COLOURS[i], marker="o", markersize=4, capsize=2)
    for ax, title in ((score, label), (apart, f"{label}, difference to scratch")):
        ax.set_title(title, loc="left", fontsize=10)
        ax.set_xticks(range(len(shots)), [str(number) for number in shots])
        ax.set_xlabel("training subjects")
        ax.yaxis.set_major_formatter("{x:g}")
        ax.spines[["top", "right"]].set_visible(False)
    score.legend(frameon=False, fontsize=9)
    figure.savefig(output)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path, help="results.csv")
    parser.add_argument("figure", type=Path, help=".png or .svg")
    parser.add_argument("--line", action="append", required=True, metavar="NAME=PATTERN")
    parser.add_argument("--metric", default="dice")
    parser.add_argument("--label", help="of the axis; default: the metric")
    parser.add_argument("--task", help="needed where the table has several")
    options = parser.parse_args()
    lines: dict[str, list[Point]] = {}
    for line in options.line:
        name, _, pattern = line.partition("=")
        lines[name] = read_points(options.table, options.task, options.metric, pattern or name)
    draw(lines, options.label or options.metric, options.figure)


if __name__ == "__main__":
    main()
