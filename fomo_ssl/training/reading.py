"""What a run directory says of its run, read without Lightning."""

import csv
import io
import json
from pathlib import Path
from typing import Any

from fomo_ssl.core.errors import RunError


def read_record(run: Path) -> dict[str, Any]:
    """The contents of `run.json`.

    Raises:
        RunError: it is missing or damaged.
    """
    try:
        record: dict[str, Any] = json.loads((run / "run.json").read_text())
    except (OSError, ValueError) as error:
        raise RunError("no run here: run.json is missing or damaged", where=run, way_out="Give another run=") from error
    return record


def read_metrics(path: Path) -> list[dict[str, float]]:
    """The rows of a `metrics.csv` without their empty cells; a row cut short by a kill is left out."""
    if not path.exists():
        return []
    text = path.read_text()
    whole = text[: text.rfind("\n") + 1]
    return [{k: float(v) for k, v in row.items() if v} for row in csv.DictReader(io.StringIO(whole))]
