"""The page of a pretraining run: its curves, its pictures and what it is, from what it wrote so far."""

import base64
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fomo_ssl.core.errors import RunError
from fomo_ssl.core.files import write_text
from fomo_ssl.report.figures import COLOURS
from fomo_ssl.report.pages import fill
from fomo_ssl.report.training_figures import Line, curves
from fomo_ssl.training.reading import read_metrics, read_record

PAGE = "report.html"

_LABELS = {
    "sequence": ("Sequence told from the frozen embedding", "balanced accuracy"),
    "sex": ("Sex told from the frozen embedding", "balanced accuracy"),
    "age": ("Age told from the frozen embedding", "mean absolute error, years"),
}
_SPREAD = {
    "health/embedding_std": ("Spread of unit-length embeddings", "1 fills the sphere", None),
    "health/relative_std": ("The same over that at the first look", "share", "min_spread"),
    "health/rankme": ("RankMe", "dimensions", "min_rankme"),
    "health/participation_ratio": ("Participation ratio", "dimensions", None),
}


def write_training_report(run: Path) -> Path:
    """Write `report.html` into a run directory, whether the run is finished, running or stopped; returns its path.

    Raises:
        RunError: `run.json` is missing or damaged, or that of no pretraining run.
    """
    page = run / PAGE
    write_text(page, render(run, time.strftime("%Y-%m-%d %H:%M")))
    return page


def render(run: Path, date: str) -> str:
    """The page's text: no script, no address that leads out of it."""
    record, rows = read_record(run), read_metrics(run / "metrics.csv")
    if "n_parameters" not in record:  # finetuning keeps a run.json too
        way_out = "Of finetuning runs python -m fomo_ssl.evaluate runs=PATH makes a page"
        raise RunError("is no pretraining run", where=run, way_out=way_out)
    return fill(
        "training_report.html.j2",
        {},
        name=run.resolve().name,
        date=date,
        record=record,
        samples=max((int(row["samples"]) for row in rows), default=0),
        sections=_sections(rows, record),
        pictures=_pictures(run / "previews"),
        recipe=list(flat(record.get("recipe", {}))),
        circumstances=record.get("circumstances", {}),
    )


def series(rows: Sequence[Mapping[str, float]], metric: str) -> tuple[list[float], list[float]]:
    """Samples seen and values of one metric, where it was logged."""
    logged = [row for row in rows if metric in row]
    return [row["samples"] for row in logged], [row[metric] for row in logged]


def flat(values: Mapping[str, Any], prefix: str = "") -> "list[tuple[str, str]]":
    """Nested plain values as dotted names and texts."""
    found: list[tuple[str, str]] = []
    for key, value in values.items():
        name = f"{prefix}{key}"
        found += flat(value, f"{name}.") if isinstance(value, Mapping) and value else [(name, str(value))]
    return found


def _sections(rows: Sequence[Mapping[str, float]], record: Mapping[str, Any]) -> dict[str, list[str]]:
    """SVG figures by heading; headings without figures are left out."""
    limits = record.get("health", {})
    sections: dict[str, list[str]] = {"Loss": [], "What the frozen embedding holds": [], "Spread": [], "Pace": []}

    def add(section: str, title: str, ylabel: str, metrics: Mapping[str, str], limit: float | None = None) -> None:
        lines = [
            Line(label, COLOURS[i], *series(rows, metric), dashed=label == "baseline")
            for i, (label, metric) in enumerate(metrics.items())
        ]
        if any(line.values for line in lines):
            drawn = [line for line in lines if line.values]
            sections[section].append(curves(title, ylabel, drawn, limit, f"{section}-{len(sections[section])}"))

    add("Loss", "Loss", "loss", {"training": "loss", "held out": "held_out/loss"})
    add("Loss", "Norm of the gradient", "before clipping", {"gradient": "grad_norm"})
    for label, (title, unit) in _LABELS.items():
        names = {"linear": "linear", "neighbours": "knn", "baseline": "baseline"}
        add("What the frozen embedding holds", title, unit, {k: f"probe/{label}_{v}" for k, v in names.items()})
    for metric, (title, unit, limit) in _SPREAD.items():
        add("Spread", title, unit, {"": metric}, limits.get(limit))
    add("Pace", "Samples a second", "samples/s", {"": "samples_per_second"})
    add("Pace", "Share of time without data", "share", {"": "data_wait"})
    add("Pace", "Largest memory so far", "GiB", {"": "memory_gib"})
    add("Pace", "Share of the device's peak (MFU)", "share", {"": "mfu"})
    return {heading: figures for heading, figures in sections.items() if figures}


def _pictures(folder: Path) -> list[tuple[str, str]]:
    """Caption and address of the last reconstruction and of the first and last features."""
    samples, features = (sorted(folder.glob(f"{kind}_*.png")) for kind in ("samples", "features"))
    chosen = [*samples[-1:], *features[:1], *(features[-1:] if len(features) > 1 else [])]
    named = {"samples": "held-out scans", "features": "features of held-out scans"}
    pictures = []
    for file in chosen:
        kind, _, count = file.stem.partition("_")
        address = "data:image/png;base64," + base64.b64encode(file.read_bytes()).decode()
        pictures.append((f"{named[kind]} after {int(count):,} samples", address))
    return pictures
