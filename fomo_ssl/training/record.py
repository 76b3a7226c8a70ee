"""`run.json`: what a run is, on what it ran and what came of it; and whether a folder may be used for a run."""

import contextlib
import functools
import hashlib
import json
import platform
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import torch

import fomo_ssl
from fomo_ssl.core.device import uses_gpu
from fomo_ssl.core.errors import RunError
from fomo_ssl.core.files import exclusive, is_stray, remove_strays, write_json
from fomo_ssl.core.processor import processor_name
from fomo_ssl.training.reading import read_record

Resume = Literal["auto", "never"]
_PATIENCE = 10.0
"""Seconds in which the processes of a run that was just killed are gone."""


def digest(recipe: Mapping[str, Any]) -> str:
    """A short hex digest of plain values, whatever the order of their keys."""
    return hashlib.blake2b(json.dumps(recipe, sort_keys=True).encode(), digest_size=8).hexdigest()


@contextlib.contextmanager
def claim(run: Path, recipe: Mapping[str, Any], resume: Resume) -> Iterator[dict[str, Any] | None]:
    """Have a folder to oneself for a run, cleared of what killed writers left in it.

    Args:
        run: the run directory; made where it is missing.
        recipe: all that decides the result.
        resume: `auto` continues a run of the same recipe; `never` wants an empty folder.

    Yields:
        The record of the run that is there, or None where the folder was empty.

    Raises:
        RunError: the folder holds another run or no run at all, holds one and `resume` is `never`, or another process
            is at work in it.
    """
    run.mkdir(parents=True, exist_ok=True)
    _check_empty(run, resume)  # a mistake needs no waiting
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(exclusive(run, _PATIENCE))
        except BlockingIOError as error:
            what = "another process is at work on this run"
            raise RunError(what, where=run, way_out="Wait for it to end, or give another run=") from error
        yield _taken(run, recipe, resume)


def _taken(run: Path, recipe: Mapping[str, Any], resume: Resume) -> dict[str, Any] | None:
    record = None
    if not _check_empty(run, resume):
        record = read_record(run)
        changed = changes(record.get("recipe", {}), recipe)
        if changed:
            way_out = "Give another run=, or these values as they were"
            raise RunError(f"holds a run with other values of {', '.join(changed)}", where=run, way_out=way_out)
    # Not before: in a folder that is refused another process may be writing.
    for folder in (run, run / "checkpoints", run / "branch_points"):
        remove_strays(folder)
    return record


def _check_empty(run: Path, resume: Resume) -> bool:
    empty = all(is_stray(entry) for entry in run.iterdir())
    if not empty and resume == "never":
        raise RunError("the run directory is not empty", where=run, way_out="Give another run=, or resume=auto")
    return empty


def write_record(run: Path, record: Mapping[str, Any]) -> None:
    """Write `run.json` as a whole."""
    write_json(run / "run.json", record)


def changes(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Dotted names of the values in which two recipes differ, as JSON keeps them."""
    names = []
    for key in sorted({*old, *new}):
        before, after = old.get(key), new.get(key)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            names += changes(before, after, f"{prefix}{key}.")
        elif json.dumps(before) != json.dumps(after):
            names.append(f"{prefix}{key}")
    return names


def circumstances(accelerator: str | None = None) -> dict[str, Any]:
    """Versions, source revision and machine; of the machine, what Lightning calls by this name (None: auto)."""
    import lightning
    import numpy

    device = torch.cuda.get_device_name() if uses_gpu(accelerator) else processor_name()
    return {
        "fomo_ssl": fomo_ssl.__version__,
        "revision": _revision(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "lightning": lightning.__version__,
        "numpy": numpy.__version__,
        "device": device,
        "threads": torch.get_num_threads(),
    }


@functools.cache
def _revision() -> str | None:
    """The commit of a clone, with a plus where files differ from it; None in an installed package."""
    folder = Path(__file__).parent
    if not (folder.parents[1] / ".git").exists():
        return None
    try:
        command = ["git", "-C", str(folder), "describe", "--always", "--dirty=+", "--abbrev=12", "--exclude=*"]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
