"""The data report: one page on what a store holds and what in it is doubtful, and `data_flags.csv`."""

import csv
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fomo_ssl.core.files import write_text
from fomo_ssl.corpus import duplicates, orientation_check, outliers, quality
from fomo_ssl.corpus.codec import LEVELS, read_box
from fomo_ssl.corpus.quality import Finding, Flag, Quality
from fomo_ssl.corpus.store import Store
from fomo_ssl.report import data_counts, data_figures
from fomo_ssl.report.pages import fill
from fomo_ssl.report.planes import three_planes

FLAGS_CSV = "data_flags.csv"
_SEQUENCES, _SCANS_EACH = 16, 4
_PICTURED, _LISTED = 6, 25

MEANING: dict[Flag, str] = {
    Flag.DUPLICATE: "the same head as a scan of another subject; of a group the first scan is not flagged",
    Flag.REPEATED: "the same picture as another scan of the same subject: stored twice, or a follow-up",
    Flag.ORIENTATION: "another orientation than the stored one looks more like the rest of the corpus",
    Flag.MOSTLY_CONSTANT: f"at least {quality.MOSTLY_CONSTANT:.0%} of the foreground has one value",
    Flag.BLANK_SLICES: "slices inside the head that show nothing",
    Flag.OUTLIER_SHAPE: "extent unlike that of its siblings",
    Flag.OUTLIER_SPACING: "source spacing unlike that of its siblings",
    Flag.OUTLIER_INTENSITY: "contrast or range unlike those of its siblings",
    Flag.OUTLIER_FOREGROUND: "foreground share or volume unlike those of its siblings",
}


@dataclass(frozen=True)
class Shown:
    """A finding as the template shows it; `pictures` are (caption, address)."""

    name: str
    detail: str
    other: str
    pictures: list[tuple[str, str]]


def write_data_report(found: Quality, output: Path) -> Path:
    """Write the page and, beside it, `data_flags.csv`; returns the latter's path."""
    flags = output.with_name(FLAGS_CSV)
    quality.write_flags(found, flags)
    write_text(output, render(found, time.strftime("%Y-%m-%d %H:%M")))
    return flags


def render(found: Quality, date: str) -> str:
    """The page's text: no script, no address that leads out of it."""
    counts = data_counts.count(found.store.index)
    rejected = _quarantine(found.store)
    by_flag = {flag: [f for f in found.findings if f.flag is flag] for flag in Flag}
    return fill(
        "data_report.html.j2",
        {"thousands": lambda n: f"{n:,}"},
        date=date,
        store=found.store,
        counts=counts,
        figures=_figures(counts, found),
        quarantine=rejected,
        quarantined=sum(line["count"] for line in rejected),
        montage=_montage(found.store),
        meaning=MEANING,
        by_flag=by_flag,
        flagged=len({f.row for f in found.findings}),
        shown={flag: list(_shown(found.store, each[:_LISTED])) for flag, each in by_flag.items()},
        judged=[_judged(one) for one in found.outliers],
        same_head=len(found.same_head),
        candidates=found.candidates,
        unjudged=int(np.isnan(found.orientations.lead).sum()),
        listed=_LISTED,
        rule={
            "limit": outliers.LIMIT,
            "enough": outliers.ENOUGH,
            "candidate": duplicates.CANDIDATE,
            "same_head": duplicates.SAME_HEAD,
            "margin": orientation_check.MARGIN,
            "subjects": orientation_check.ENOUGH,
        },
    )


def _figures(counts: data_counts.Counts, found: Quality) -> dict[str, str]:
    return {
        "dataset": data_figures.bars(counts.dataset, "dataset"),
        "sequence": data_figures.bars(counts.sequence, "sequence"),
        "spacing": data_figures.grouped_bars(counts.spacing, ("finest edge", "coarsest edge"), "spacing"),
        "sex": data_figures.bars(counts.sex, "sex"),
        "age": data_figures.age_histogram(counts.ages, "age") if counts.ages else "",
        "deviations": data_figures.deviation_strips(found.outliers, "deviations"),
    }


def _quarantine(store: Store) -> list[dict[str, Any]]:
    """Reasons with their counts and a few examples, most frequent first; none where the store has no list."""
    path = store.path / "quarantine.csv"
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        lines = list(csv.DictReader(file))
    counted = Counter(line["reason"] for line in lines).most_common()
    examples: dict[str, list[dict[str, str]]] = {}
    for line in lines:
        if len(examples.setdefault(line["reason"], [])) < 3:
            examples[line["reason"]].append(line)
    return [{"reason": reason, "count": count, "examples": examples[reason]} for reason, count in counted]


def _montage(store: Store) -> list[tuple[str, int, list[tuple[str, str]]]]:
    """(sequence, scans, pictures with captions): scans spread evenly over the rows, which are sorted by dataset."""
    rows: dict[str, list[int]] = {}
    for row, name in enumerate(store.index.column("sequence").to_pylist()):
        rows.setdefault(name, []).append(row)
    largest = sorted(rows.items(), key=lambda item: (-len(item[1]), item[0]))[:_SEQUENCES]
    shown = []
    for name, members in largest:
        steps = np.linspace(0, len(members) - 1, min(_SCANS_EACH, len(members))).round().astype(int)
        shown.append((name, len(members), [_picture(store, members[step]) for step in steps]))
    return shown


def _shown(store: Store, findings: Iterable[Finding]) -> Iterable[Shown]:
    for number, finding in enumerate(findings):
        rows = [finding.row] if finding.other is None else [finding.row, finding.other]
        pictures = [_picture(store, row) for row in rows] if number < _PICTURED else []
        other = "" if finding.other is None else _name(store, finding.other)
        yield Shown(_name(store, finding.row), finding.detail, other, pictures)


def _picture(store: Store, row: int) -> tuple[str, str]:
    """(caption, address) of a scan: slices through the middle of its foreground."""
    cells = store.index.slice(row, 1).to_pylist()[0]
    x, y, z = (
        min((cells[f"box_lo_{axis}"] + cells[f"box_hi_{axis}"]) // 2, cells[f"shape_{axis}"] - 1) for axis in "xyz"
    )
    spacing = (cells["spacing_x"], cells["spacing_y"], cells["spacing_z"])
    values = read_box(store.path / cells["file"]).astype(np.float32) / LEVELS
    return _name(store, row), three_planes(values, spacing, (x, y, z))


def _name(store: Store, row: int) -> str:
    cells = store.index.slice(row, 1).to_pylist()[0]
    ids = (cells["dataset"], cells["subject"], cells["session"], cells["sequence"])
    return " / ".join(part for part in ids if part)


def _judged(one: outliers.Judged) -> dict[str, Any]:
    known = np.isfinite(one.deviations)
    return {
        "name": one.measure.name,
        "judged": int(known.sum()),
        "unjudged": int((~known).sum()),
        "outliers": int(one.outlying.sum()),
    }
