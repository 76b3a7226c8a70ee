"""What a store holds, as a table in the terminal and as one self-contained page with a thumbnail per sequence."""

import base64
import io
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from rich.console import Console
from rich.table import Table

from fomo_ssl.corpus.codec import LEVELS, read_box
from fomo_ssl.corpus.journal import QUARANTINE, Rejected
from fomo_ssl.imaging.canonical import CanonicalSpec

_THUMBNAIL = 128
# More lines than this are folded into one line per sequence.
_TERMINAL_LINES = 40
_AXES = "xyz"

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Store of {{ accepted }} scans</title><style>
:root { color-scheme: light dark } figcaption { text-align: center; opacity: .7 }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 62rem; padding: 0 1rem }
.scroll { overflow-x: auto } table { border-collapse: collapse; margin: 1rem 0 }
th, td { padding: .25rem .8rem .25rem 0; border-bottom: 1px solid #8885 }
th { text-align: left } td.n { text-align: right } figure { display: inline-block; margin: .5rem .5rem .5rem 0 }
img { background: #000; border-radius: 4px; max-width: 100% }
</style></head><body>
<h1>{{ accepted }} scans of {{ subjects }} subjects, {{ quarantined }} in quarantine</h1>
<p>Spacing {{ spacing }}, up-sampling at most {{ spec.max_upsample }}, {{ megabytes }} MB, {{ each }} MB a scan.</p>
{% for name, picture in thumbnails %}<figure><img alt="{{ name }}" src="data:image/png;base64,{{ picture }}">
<figcaption>{{ name }}</figcaption></figure>
{% endfor %}
<h2>Scans</h2><div class="scroll"><table><tr>{% for name in header %}<th>{{ name }}</th>{% endfor %}</tr>
{% for line in lines %}<tr><td>{{ line.dataset }}</td><td>{{ line.sequence }}</td><td class="n">{{ line.accepted }}</td>
<td class="n">{{ line.rejected }}</td><td>{{ line.shape }}</td><td>{{ line.spacing }}</td></tr>
{% endfor %}</table></div>
{% if reasons %}<h2>Quarantine</h2><div class="scroll"><table><tr><th>reason</th><th>scans</th></tr>
{% for reason, count in reasons %}<tr><td>{{ reason }}</td><td class="n">{{ count }}</td></tr>
{% endfor %}</table></div>{% endif %}
</body></html>
"""


@dataclass(frozen=True)
class Line:
    """One line of the summary; shape and spacing are medians over the accepted scans."""

    dataset: str
    sequence: str
    accepted: int
    rejected: int
    shape: str
    spacing: str


HEADER = ("dataset", "sequence", "accepted", "rejected", "median shape", "median spacing, mm")


def overview(table: pa.Table, rejected: list[Rejected], *, by_dataset: bool = True) -> list[Line]:
    """Counts and medians by dataset and sequence, or by sequence only."""
    datasets = table.column("dataset").to_pylist() if by_dataset else [""] * len(table)
    groups: dict[tuple[str, str], list[int]] = defaultdict(list)
    for row, key in enumerate(zip(datasets, table.column("sequence").to_pylist(), strict=True)):
        groups[key].append(row)
    bad = Counter((line.dataset if by_dataset else "", line.sequence) for line in rejected)
    shape, spacing = _triples(table, "shape"), _triples(table, "spacing")
    lines = []
    for key in sorted({*groups, *bad}):
        rows = groups.get(key, [])
        shapes = "x".join(f"{v:.0f}" for v in np.median(shape[rows], axis=0)) if rows else ""
        spacings = "x".join(f"{v:.3g}" for v in np.median(spacing[rows], axis=0)) if rows else ""
        lines.append(Line(*key, len(rows), bad[key], shapes, spacings))
    return lines


def print_summary(
    console: Console, store: Path, table: pa.Table, rejected: list[Rejected], processed: int, seconds: float
) -> None:
    """Show the summary table and where the rest is."""
    lines = overview(table, rejected)
    if len(lines) > _TERMINAL_LINES:
        lines = overview(table, rejected, by_dataset=False)
    grid = Table(*HEADER, title=f"{len(table)} scans in {store}")
    for line in lines:
        grid.add_row(line.dataset, line.sequence, str(line.accepted), str(line.rejected), line.shape, line.spacing)
    console.print(grid)
    for reason, count in sorted(Counter(line.reason for line in rejected).items()):
        console.print(f"{count} rejected: {reason}")
    for kind, count in sorted(mask_counts(table).items()):
        console.print(f"{count} of {len(table)} scans have a {kind} mask")
    megabytes = sum(table.column("file_bytes").to_pylist()) / 1e6
    console.print(
        f"{processed} scans processed in {seconds:.1f} s; {megabytes:.1f} MB; "
        f"details in {store / 'summary.html'} and {QUARANTINE}",
        soft_wrap=True,
    )


def mask_counts(table: pa.Table) -> Counter[str]:
    """How many scans have a mask of each kind."""
    named = table.column("masks").to_pylist() if "masks" in table.column_names else []
    return Counter(mask.split(" ", 1)[0] for masks in named if masks for mask in masks.split("; "))


def summary_page(store: Path, table: pa.Table, rejected: list[Rejected], spec: CanonicalSpec) -> str:
    """The page as HTML: no network, no time stamp, so the same store gives the same bytes."""
    import jinja2

    sequences = table.column("sequence").to_pylist()
    first = {name: row for row, name in reversed(list(enumerate(sequences)))}
    thumbnails = [(name, _thumbnail(store, table.slice(row, 1).to_pylist()[0])) for name, row in sorted(first.items())]
    subjects = set(zip(table.column("dataset").to_pylist(), table.column("subject").to_pylist(), strict=True))
    megabytes = sum(table.column("file_bytes").to_pylist()) / 1e6
    page: str = jinja2.Template(_PAGE, autoescape=True).render(
        accepted=len(table),
        subjects=len(subjects),
        quarantined=len(rejected),
        spacing="native" if spec.spacing is None else f"{spec.spacing:g} mm",
        spec=spec,
        megabytes=f"{megabytes:.1f}",
        each=f"{megabytes / len(table):.2f}",
        thumbnails=thumbnails,
        header=HEADER,
        lines=overview(table, rejected),
        reasons=sorted(Counter(line.reason for line in rejected).items()),
    )
    return page


def _triples(table: pa.Table, name: str) -> np.ndarray:
    return np.stack([table.column(f"{name}_{axis}").to_numpy() for axis in _AXES], axis=1)


def _thumbnail(store: Path, cells: dict[str, Any]) -> str:
    """Sagittal, coronal and axial slice through the middle of the foreground, as base64 PNG."""
    from matplotlib.image import imsave

    values = read_box(store / cells["file"])
    centre = [(cells[f"box_lo_{axis}"] + cells[f"box_hi_{axis}"]) // 2 for axis in _AXES]
    slices = [values.take(position, axis) for axis, position in enumerate(centre)]
    extents = [cells[f"shape_{axis}"] * cells[f"spacing_{axis}"] for axis in _AXES]
    sides = [tuple(extents[a] for a in range(3) if a != axis) for axis in range(3)]
    scale = _THUMBNAIL / max(extents)
    tiles = [_tile(plane, scale * width, scale * height) for plane, (width, height) in zip(slices, sides, strict=True)]
    png = io.BytesIO()
    picture = np.concatenate(tiles, axis=1)
    # Matplotlib signs with its version otherwise.
    unsigned: Any = {"Software": None}
    imsave(png, picture, cmap="gray", vmin=0, vmax=LEVELS, format="png", metadata=unsigned)
    return base64.b64encode(png.getvalue()).decode()


def _tile(plane: np.ndarray, width: float, height: float) -> np.ndarray:
    """A slice with its first axis to the right and its second upwards, centred on a square tile."""
    columns = np.linspace(0, plane.shape[0] - 1, max(1, round(width))).round().astype(int)
    lines = np.linspace(plane.shape[1] - 1, 0, max(1, round(height))).round().astype(int)
    picture = plane[np.ix_(columns, lines)].T
    pads = [((_THUMBNAIL - size) // 2, _THUMBNAIL - size - (_THUMBNAIL - size) // 2) for size in picture.shape]
    return np.pad(picture, pads)
