"""The rows of a report as `results.csv` and as lines of a terminal."""

import csv
import io
from collections.abc import Sequence

from fomo_ssl.downstream.metrics import METRICS
from fomo_ssl.downstream.statistics import Interval
from fomo_ssl.report.results import Row

_IDS = ("task", "kind", "training", "shots", "dataset", "metric", "method", "init", "run")
_NUMBERS = ("mean", "low", "high", "subjects", "seeds", "difference", "difference_low", "difference_high", "verdict")
_TESTS = ("p", "p_holm", "band")
_AGAINST = ("against", "control", "of_seeds")


def to_csv(table: Sequence[Row]) -> str:
    """The text of `results.csv`; empty fields where nothing is compared, there is no test or no band."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*_IDS, *_NUMBERS, *_TESTS, *_AGAINST])
    for row in table:
        s, a = row.setting, row.arm
        ids = [s.task, s.kind, s.label, s.shots or "", row.dataset, row.metric, a.method, a.init, str(a.run.path)]
        apart = [""] * 3 if row.difference is None else _digits(row.difference)
        tests = ["" if p is None else f"{p:.6g}" for p in (row.p, row.p_holm)]
        numbers = [*_digits(row.score), row.score.n, row.members or len(a.tables), *apart, row.verdict]
        against = ("", "") if row.against is None else (row.against.method, "in-domain" if row.in_domain else "twin")
        writer.writerow([*ids, *numbers, *tests, row.band, *against, "ensemble" if row.members else "mean"])
    return out.getvalue()


def to_text(table: Sequence[Row]) -> str:
    """The scores over all cases by the metrics of the task, for a terminal: a line a method and metric.

    A difference is that to the from-scratch twin. That to an in-domain control has a line of its own, which names both;
    so has the ensemble of the seeds.
    """
    head = ("task", "training", "metric", "method", "score", "difference to scratch", "p", "p, Holm", "")
    lines: list[tuple[str, ...]] = [head]
    for row in table:
        if (row.overall or row.in_domain or row.members) and row.metric in METRICS[row.setting.kind]:
            apart = "" if row.difference is None else str(row.difference)
            tests = ["" if p is None else f"{p:.2g}" for p in (row.p, row.p_holm)]
            method, score = row.arm.method, f"{row.score.value:.3f}"
            if row.in_domain and row.against is not None:
                method, score = f"{method} - {row.against.method}", ""
            if row.members:
                method = f"{method}, ensemble of {row.members} seeds"
            ids = (row.setting.task, row.setting.label, row.metric, method)
            lines.append((*ids, score, apart, *tests, row.verdict))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)


def _digits(interval: Interval) -> list[str]:
    return [f"{x:.6g}" for x in (interval.value, interval.low, interval.high)]
