"""The report: one page that holds everything it shows, and `results.csv`."""

import math
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fomo_ssl.core.errors import RunError
from fomo_ssl.core.files import write_text
from fomo_ssl.downstream.metrics import HIGHER_IS_BETTER, METRICS
from fomo_ssl.report import figures, pictures, provenance, results, results_table
from fomo_ssl.report.failures import failures
from fomo_ssl.report.pages import fill
from fomo_ssl.report.results import Row, Setting
from fomo_ssl.report.runs import Run
from fomo_ssl.report.sections import LABELS, section
from fomo_ssl.report.standings import ranking

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
    write_text(output / "results.csv", results_table.to_csv(table))
    write_text(output / "report.html", render(runs, found, table, time.strftime("%Y-%m-%d %H:%M")))
    return table


def render(runs: Sequence[Run], found: Sequence[Setting], table: Sequence[Row], date: str) -> str:
    """The page's text: no script, no address that leads out of it."""
    methods = dict.fromkeys(arm.method for setting in found for arm in setting.arms)
    colours = dict(zip(methods, figures.COLOURS * (len(methods) // len(figures.COLOURS) + 1), strict=False))
    # Of one name there may be several: a table is called after its file, such as train.csv.
    tasks = dict.fromkeys((setting.task, setting.kind) for setting in found)
    overall = [row for row in table if row.overall and row.metric in METRICS[row.setting.kind]]
    against_twin = [row for row in overall if row.difference is not None]
    in_domain = [row for row in table if row.in_domain]
    comparisons = _comparisons(against_twin, overall)
    described = [provenance.describe(run) for run in runs]
    shown = {id(line[side]) for line in comparisons for side in ("row", "control")}
    standings = ranking(found) if len(methods) > 1 else []
    return fill(
        "report.html.j2",
        {"number": number, "interval": interval, "signed": signed, "p_value": p_value},
        date=date,
        runs=described,
        facts=provenance.facts(runs),
        comparisons=comparisons,
        alone=[row for row in overall if id(row) not in shown],
        verdicts=Counter(row.verdict for row in against_twin),
        in_domain=_comparisons(in_domain, overall),
        in_domain_verdicts=Counter(row.verdict for row in in_domain),
        sections=[
            section(
                [s for s in found if (s.task, s.kind) == task],
                [row for row in table if (row.setting.task, row.setting.kind) == task],
                colours,
            )
            for task in tasks
        ],
        ranking=standings,
        stability=figures.rank_shares({s.method: s.shares for s in standings}, colours, "ranks") if standings else "",
        failures=failures(runs, found),
        higher=HIGHER_IS_BETTER,
        tolerances=", ".join(sorted({f"{run['tolerance']:g} mm" for run in described if run["tolerance"]})),
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


def p_value(value: float | None) -> str:
    """`0.012`, `< 0.001`, or a dash."""
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:.3f}" if value >= 0.001 else "< 0.001"


def _comparisons(rows: Sequence[Row], overall: Sequence[Row]) -> list[dict[str, Any]]:
    """Lines of a verdict table: the method, what it is compared with, the difference and the words."""
    limits: dict[str, float] = {}
    for row in rows:
        ends = [] if row.difference is None else [abs(row.difference.low), abs(row.difference.high)]
        limits[row.metric] = max([limits.get(row.metric, 0.0), *filter(math.isfinite, ends)])
    return [_comparison(row, overall, limits[row.metric]) for row in rows]


def _comparison(row: Row, overall: Sequence[Row], limit: float) -> dict[str, Any]:
    other = row.against
    assert other is not None
    assert row.difference is not None
    return {
        "row": row,
        "control": next(r for r in overall if r.arm is other and r.setting is row.setting and r.metric == row.metric),
        "bar": figures.interval_bar(row.difference, limit, _verdict_colour(row.verdict)),
        "higher": HIGHER_IS_BETTER[row.metric],
        "few": row.difference.n < FEW_SUBJECTS,
        "lost": row.verdict in (results.BETTER, results.WORSE) and not row.holds,
        "one_seed": len(row.arm.tables.keys() & other.tables.keys()) < 2,
    }


def _verdict_colour(words: str) -> str:
    return {results.BETTER: figures.COLOURS[0], results.WORSE: figures.COLOURS[1]}.get(words, "currentColor")


def _css(colour: tuple[int, int, int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)
