"""Where the numbers of a report come from: runs, their configuration, versions and fingerprints."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fomo_ssl.report.runs import Run


def describe(run: Run) -> dict[str, Any]:
    """A run as the template's tables show it."""
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
        "tolerance": training.get("tolerance") if recipe.get("task_kind") == "segmentation" else None,
        "finished": len(run.units),
        "unfinished": run.unfinished,
        "minutes": seconds / 60.0,
        "notes": [*recipe.get("notes", ()), *_seen(run)],
        "configuration": json.dumps(recipe, indent=2, ensure_ascii=False),
        "fingerprints": fingerprints(run),
    }


def _seen(run: Run) -> list[str]:
    if run.bundle is None:
        return []
    if run.seen is None:
        return ["which subjects the encoder was pretrained on is not recorded"]
    complete = run.record["seen_in_pretraining"]["complete"]
    begun = "" if complete else "; what the weights had seen that its pretraining began from is not recorded"
    known, tested = run.seen
    return [f"{known} of {tested} test cases are of subjects that the encoder was pretrained on, without labels{begun}"]


def fingerprints(run: Run) -> dict[str, str]:
    """Short digests: two runs with the same ones had the same values, splits and pretrained weights.

    Of the weights that were trained from, which the bundle may hold no longer; runs from before did not keep it.
    """
    found = {"configuration": _digest(json.dumps(run.recipe, sort_keys=True).encode())}
    found["splits"] = _digest((run.path / "splits.json").read_bytes())
    if data := run.record.get("data_fingerprint"):
        found["data"] = str(data)
    if kept := run.record.get("bundle_digest"):
        found["bundle"] = str(kept)[:16]
    elif run.bundle is not None:
        weights = run.bundle / "encoder.safetensors"
        found["bundle"] = _file_digest(weights) if weights.is_file() else "no longer there"
    return found


def facts(runs: Sequence[Run]) -> dict[str, str]:
    """Versions, machine and pretraining data, each once."""
    found: dict[str, dict[str, None]] = {}
    for run in runs:
        for key, value in (*run.record.get("circumstances", {}).items(), *_pretraining(run).items()):
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
    found = {label: training[key] for key, label in wanted.items() if key in training}
    objective = training.get("recipe", {}).get("objective")
    name = objective.get("name") if isinstance(objective, dict) else objective
    return found | ({"objective": name} if name else {})


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=8).hexdigest()


def _file_digest(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, lambda: hashlib.blake2b(digest_size=8)).hexdigest()
