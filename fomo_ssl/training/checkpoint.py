"""Training states that survive a kill at any moment: whole files only, the last two kept, the newest whole one found.

A checkpoint is Lightning's dictionary plus, under `fomo_ssl`, what Lightning leaves out: the random states, the samples
seen and the digest of the run's recipe. It is read without unpickling code.
"""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.fabric.plugins import CheckpointIO

from fomo_ssl.core.errors import RunError, is_disk_full
from fomo_ssl.core.files import atomic_file

KEPT = 2


class AtomicCheckpointIO(CheckpointIO):
    """Lightning's hook for reading and writing files.

    Lightning's own writer goes through the system's temporary folder; where that is another file system, a kill can
    tear the final file.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write one checkpoint, whole or not at all.

        Raises:
            RunError: the disk is full; names the last whole checkpoint.
        """
        path = Path(path)
        try:
            with atomic_file(path) as file:
                torch.save(checkpoint, file)
        except (OSError, RuntimeError) as error:
            # torch's zip writer may raise an error of its own over the one of the file.
            if not is_disk_full(error):
                raise
            whole = checkpoint_files(path.parent)
            kept = f"{whole[0].name} is whole" if whole else "there is no earlier checkpoint"
            way_out = "Free space and run the same command with resume=auto"
            raise RunError(f"no space for a checkpoint; {kept}", where=path.parent, way_out=way_out) from error

    def load_checkpoint(
        self, path: str | Path, map_location: Any = None, weights_only: bool | None = True
    ) -> dict[str, Any]:
        """Read one checkpoint; never runs code from it."""
        state: dict[str, Any] = torch.load(path, map_location=map_location or "cpu", weights_only=True)
        return state

    def remove_checkpoint(self, path: str | Path) -> None:
        """Delete one checkpoint."""
        Path(path).unlink(missing_ok=True)


def checkpoint_path(folder: Path, samples_seen: int) -> Path:
    """Where the state after `samples_seen` samples lies; names sort by age."""
    return folder / f"samples_{samples_seen:012d}.ckpt"


def samples_of(checkpoint: Path) -> int:
    """Samples seen when a checkpoint was written, from its name."""
    return int(checkpoint.stem.removeprefix("samples_"))


def checkpoint_files(folder: Path) -> list[Path]:
    """All checkpoints of a folder, newest first."""
    return sorted(folder.glob("samples_*.ckpt"), reverse=True)


def newest_checkpoint(folder: Path, report: Callable[[str], None] = print) -> Path | None:
    """The newest checkpoint that opens, or None where there is none at all.

    Args:
        folder: the run's `checkpoints`.
        report: told about every damaged file that is passed over.

    Raises:
        RunError: there are checkpoints and none opens.
    """
    files = checkpoint_files(folder)
    for file in files:
        try:
            torch.load(file, map_location="cpu", weights_only=True, mmap=True)
        except Exception as error:
            report(f"{file.name} is damaged and passed over: {type(error).__name__}")
            continue
        return file
    if files:
        raise RunError("no checkpoint opens", where=folder, way_out="Delete the folder to start this run again")
    return None


def keep_newest(folder: Path, count: int = KEPT) -> None:
    """Delete all checkpoints but the newest."""
    for file in checkpoint_files(folder)[count:]:
        file.unlink(missing_ok=True)


def random_state() -> dict[str, Any]:
    """States of all global generators, as types that load without unpickling code."""
    version, numbers, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    return {
        "python": [version, list(numbers), gauss],
        "numpy": [name, torch.from_numpy(np.asarray(keys).copy()), int(position), int(has_gauss), float(cached)],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Put back what `random_state` gave; device generators only where there are as many devices."""
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, keys.numpy(), position, has_gauss, cached))
    torch.set_rng_state(state["torch"].cpu())
    if state["cuda"] and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([s.cpu() for s in state["cuda"]])


def seed_everything(seed: int) -> None:
    """Seed all global generators: weights at the start and dropout; the data have keys of their own."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
