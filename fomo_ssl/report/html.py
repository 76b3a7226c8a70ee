"""The report: one page that holds everything it shows, and `results.csv`."""

import json
import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fomo_ssl.core.errors import RunError
from fomo_ssl.core.files import write_text
from fomo_ssl.downstream.metrics import HIGHER_IS_BETTER
from fomo_ssl.report import figures, pictures, results
from fomo_ssl.report.pages import fill
from fomo_ssl.report.results import ALL, Row, Setting
from fomo_ssl.report.runs import Run
from fomo_ssl.report.sections import LABELS, section

FEW_SUBJECTS = 10
"""Below this, percentile intervals are too narrow to be taken at their word; the page marks them."""


def write_report(runs: Sequence[Run], output: Path) -> list[Row]:
    """Write `report.html` and `results.csv` into a folder; returns the rows.

    Args:
        runs: with at least one finished unit among them.
        output: folder, made where it is missing.

    Raises:
        RunError: there are only single folds of cross-validations.
    """
    found = results.settings(runs)
    if not found:
        where = ", ".join(str(run.path) for run in runs)
        raise RunError("no seed has all its folds finished", where=where, way_out="finetune with resume=auto")
    table = results.rows(found)
    write_text(output / "results.csv", results.to_csv(table))
    write_text(output / "report.html", render(runs, found, table, time.strftime("%Y-%m-%d %H:%M")))
    return table


def render(runs: Sequence[Run], found: Sequence[Setting], table: Sequence[Row], date: str) -> str:
    """The page's text: no script, no address that leads out of it."""
    methods = dict.fromkeys(arm.method for setting in found for arm in setting.arms)
    colours = dict(zip(methods, figures.COLOURS * (len(methods) // len(figures.COLOURS) + 1), strict=False))
    tasks = dict.fromkeys(setting.task for setting in found)
    overall = [row for row in table if row.dataset == ALL]
    comparisons = [_comparison(row, overall) for row in overall if row.difference is not None]
    shown = {id(line[side]) for line in comparisons for side in ("row", "scratch")}
    return fill(
        "report.html.j2",
        {"number": number, "interval": interval, "signed": signed},
        date=date,
        runs=[_describe(run) for run in runs],
        facts=_facts(runs),
        comparisons=comparisons,
        alone=[row for row in overall if id(row) not in shown],
        verdicts=Counter(row.verdict for row in overall if row.difference is not None),
        sections=[
            section([s for s in found if s.task == task], [r for r in table if r.setting.task == task], colours)
            for task in tasks
        ],
        # Two methods in one setting are ranked by their difference already.
        ranking=results.ranking(found, table) if len(methods) * len(found) > 2 and len(methods) > 1 else [],
        colours=colours,
        labels=LABELS,
        truth=_css(pictures.TRUTH),
        prediction=_css(pictures.PREDICTION),
        few=FEW_SUBJECTS,
    )


def number(value: float | None, digits: int = 3) -> str:
    """A score with few digits: as many decimals as leave `digits` significant ones of a number below 1000."""
    if value is None or not math.isfinite(value):
        return "–"
    whole = len(str(int(abs(value)))) if abs(value) >= 1 else 0
    return f"{value:.{max(digits - whole, 1 if whole < 4 else 0)}f}".replace("-", "−")


def interval(value: Any, digits: int = 3) -> str:
    """`0.845 [0.812, 0.871]`."""
    return f"{number(value.value, digits)} [{number(value.low, digits)}, {number(value.high, digits)}]"


def signed(value: Any, digits: int = 3) -> str:
    """An interval whose estimate carries its sign."""
    return ("+" if value.value > 0 else "") + interval(value, digits)


def _comparison(row: Row, overall: Sequence[Row]) -> dict[str, Any]:
    """A line of the verdict table: the method, its twin, the difference and the words."""
    twin = row.setting.twin(row.arm)
    assert twin is not None
    assert row.difference is not None
    scratch = next(r for r in overall if r.arm is twin and r.setting is row.setting and r.metric == row.metric)
    same_metric = [r.difference for r in overall if r.metric == row.metric and r.difference is not None]
    limits = [abs(x) for d in same_metric for x in (d.low, d.high) if math.isfinite(x)]
    return {
        "row": row,
        "scratch": scratch,
        "bar": figures.interval_bar(row.difference, max(limits, default=0.0), _verdict_colour(row.verdict)),
        "higher": HIGHER_IS_BETTER[row.metric],
        "few": row.difference.n < FEW_SUBJECTS,
        "one_seed": len(row.arm.tables.keys() & twin.tables.keys()) < 2,
    }


def _verdict_colour(words: str) -> str:
    return {results.BETTER: figures.COLOURS[0], results.WORSE: figures.COLOURS[1]}.get(words, "currentColor")


def _css(colour: tuple[int, int, int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)


def _describe(run: Run) -> dict[str, Any]:
    recipe = run.recipe
    training = recipe.get("training", {})
    seconds = sum(float(unit.result.get("seconds_training", 0.0)) for unit in run.units)
    return {
        "path": str(run.path),
        "task": recipe.get("task", "?"),
        "encoder": recipe.get("encoder", {}).get("name", "?"),
        "bundle": str(run.bundle) if run.bundle else "none",
        "steps": training.get("steps"),
        "batch_size": training.get("batch_size"),
        "crop": " × ".join(map(str, recipe.get("crop", ()))),
        "finished": len(run.units),
        "unfinished": run.unfinished,
        "minutes": seconds / 60.0,
        "notes": list(recipe.get("notes", ())),
    }


def _facts(runs: Sequence[Run]) -> dict[str, str]:
    """Versions, machine and pretraining data, each once."""
    found: dict[str, dict[str, None]] = {}
    for run in runs:
        for key, value in run.record.get("circumstances", {}).items():
            found.setdefault(key, {})[str(value)] = None
        for key, value in _pretraining(run).items():
            found.setdefault(key, {})[str(value)] = None
    return {key: ", ".join(values) for key, values in found.items()}


def _pretraining(run: Run) -> Mapping[str, Any]:
    """What the bundle says of its training, where it is still there."""
    if run.bundle is None:
        return {}
    try:
        training: dict[str, Any] = json.loads((run.bundle / "config.json").read_text())["training"]
    except (OSError, ValueError, KeyError):
        return {"pretraining": f"{run.bundle} is no longer there"}
    wanted = {"samples": "pretraining samples", "data_fingerprint": "pretraining data", "scans": "pretraining scans"}
    facts = {label: training[key] for key, label in wanted.items() if key in training}
    objective = training.get("recipe", {}).get("objective")
    name = objective.get("name") if isinstance(objective, dict) else objective
    return facts | ({"objective": name} if name else {})
