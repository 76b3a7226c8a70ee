"""The table of a run: pretrained against from scratch, with intervals and the paired difference."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from fomo_ssl.downstream import scores
from fomo_ssl.downstream.scores import Predictions
from fomo_ssl.downstream.splits import read_splits
from fomo_ssl.downstream.statistics import Interval
from fomo_ssl.downstream.unit import read_result


@dataclass(frozen=True)
class Row:
    """One metric at one number of shots, as the mean over seeds.

    Attributes:
        setting: `5 shots` or `cross-validation`.
        dataset: `all`, or one dataset of several.
        difference: pretrained minus scratch over the same subjects; None where an arm is missing.
    """

    task: str
    setting: str
    dataset: str
    metric: str
    seeds: int
    pretrained: Interval | None
    scratch: Interval | None
    difference: Interval | None


def summarise(run: Path) -> list[Row]:
    """The rows of all finished units of a run directory; a seed of a cross-validation counts with all its folds."""
    rows = []
    for (task, _, setting), arms in sorted(_tables(run).items()):
        for dataset, tables in _by_dataset(arms):
            common = [seed for seed in tables["pretrained"] if seed in tables["scratch"]]
            pairs = [[tables[arm][seed] for seed in common] for arm in ("pretrained", "scratch")]
            differences = scores.differences(pairs[0], pairs[1]) if common else {}
            found = {arm: scores.intervals(list(of.values())) if of else {} for arm, of in tables.items()}
            seeds = max(len(of) for of in tables.values())
            for metric in found["pretrained"] or found["scratch"]:
                arm_values = (found["pretrained"].get(metric), found["scratch"].get(metric))
                rows.append(Row(task, setting, dataset, metric, seeds, *arm_values, differences.get(metric)))
    return rows


def to_json(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Plain values for `summary.json`."""
    return [asdict(row) for row in rows]


def to_table(rows: Sequence[Row]) -> Table:
    """The rows of one run for a terminal; what is the same in all of them stands in the title."""
    tasks, datasets = {row.task for row in rows}, {row.dataset for row in rows}
    table = Table(title=f"{', '.join(sorted(tasks))}: mean over seeds [95 % interval over subjects]")
    table.title_justify = "left"
    shown = ["training", *["cases"] * (len(datasets) > 1), "metric", "pretrained", "scratch", "difference", "n"]
    for name in shown:
        table.add_column(name)
    for row in rows:
        either = row.pretrained or row.scratch
        pretrained, scratch, difference = (str(v) if v else "" for v in (row.pretrained, row.scratch, row.difference))
        cells = {"training": row.setting, "cases": row.dataset, "metric": row.metric, "pretrained": pretrained}
        cells |= {"scratch": scratch, "difference": difference, "n": str(either.n) if either else ""}
        table.add_row(*[cells[name] for name in shown])
    return table


_Arms = dict[str, dict[int, Predictions]]


def _tables(run: Path) -> dict[tuple[str, int, str], _Arms]:
    """Predictions by (task, shots, setting), arm and seed; the folds of a seed are one table."""
    parts: dict[tuple[str, int, str], dict[str, dict[int, list[Predictions]]]] = {}
    planned = 1 + max((split.fold or 0 for split in read_splits(run / "splits.json")), default=0)
    for folder in sorted((run / "units").glob("*")):
        result = read_result(folder)
        if result is None:
            continue
        few_shot = result["fold"] is None
        shots = result["shots"]
        setting = f"{shots} shot{'s'[: shots > 1]}" if few_shot else "cross-validation"
        arms = parts.setdefault((result["task"], shots if few_shot else 0, setting), {})
        seeds = arms.setdefault(result["init"], {})
        table = scores.read_csv(folder / "predictions.csv", result["kind"])
        seeds.setdefault(result["seed"], []).append(table)
    return {
        key: {
            arm: {
                seed: scores.concatenate(folds)
                for seed, folds in sorted(arms.get(arm, {}).items())
                if len(folds) == planned
            }
            for arm in ("pretrained", "scratch")
        }
        for key, arms in parts.items()
    }


def _by_dataset(arms: _Arms) -> list[tuple[str, Mapping[str, Mapping[int, Predictions]]]]:
    """All cases, then each dataset where there are several."""
    tables = [table for of in arms.values() for table in of.values()]
    names = sorted(set(tables[0].datasets)) if tables else []
    result: list[tuple[str, Mapping[str, Mapping[int, Predictions]]]] = [("all", arms)] if tables else []
    for name in names if len(names) > 1 else []:
        part = {arm: {seed: scores.of_dataset(table, name) for seed, table in of.items()} for arm, of in arms.items()}
        result.append((name or "unknown", part))
    return result
