import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fomo_ssl.core.seeding import numpy_generator
from fomo_ssl.corpus.preprocess import preprocess
from fomo_ssl.imaging.canonical import CanonicalSpec
from fomo_ssl.imaging.nifti import Volume, write


def ball(seed: int, shape=(22, 24, 20), spacing=(2.0, 2.0, 2.0)) -> Volume:
    """A textured ball in faint air: the least that preprocessing takes for a head."""
    rng = numpy_generator(seed, 0, "ball")
    grid = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    inside = sum(g**2 for g in grid) < 0.7
    data = np.where(inside, 60 + 20 * rng.standard_normal(shape), 2 * np.abs(rng.standard_normal(shape)))
    return Volume(data.astype(np.float32), np.diag([*spacing, 1.0]))


@pytest.fixture(scope="session")
def make_ball() -> Callable[..., Volume]:
    return ball


@pytest.fixture(scope="session")
def tree(tmp_path_factory) -> Path:
    """A flat source of six good scans in four sessions, one bad file and metadata."""
    source = tmp_path_factory.mktemp("tree") / "source"
    names = ["sub_1/ses_1/t1", "sub_1/ses_1/flair", "sub_1/ses_2/t1", "sub_2/ses_1/t1", "sub_2/ses_1/dwi_b1000"]
    for seed, name in enumerate([*names, "sub_10/ses_1/t2"]):
        path = source / f"{name}.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        volume = ball(seed)
        write(path, volume.data, volume.affine)
    (source / "sub_2/ses_1/swi.nii.gz").write_bytes(b"not an image")
    lines = [
        "participant_id\tsession_id\tage\tsex\tdataset",
        "sub_1\tses_1\t45Y\tF\tAlpha",
        "sub_2\tses_1\t20-30\tm\tBeta",
    ]
    (source / "participants.tsv").write_text("\n".join(lines) + "\n")
    return source


@pytest.fixture(scope="session")
def contents() -> Callable[[Path], dict[str, bytes]]:
    def read_all(folder: Path) -> dict[str, bytes]:
        return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}

    return read_all


@pytest.fixture(scope="session")
def killed_run() -> Callable[..., None]:
    """Preprocess in a process that is killed once so many scan files (or, for -1, the index) exist."""

    def run(tree: Path, store: Path, spec: CanonicalSpec, after: int, **settings: Any) -> None:
        fork = multiprocessing.get_context("fork")
        process = fork.Process(target=preprocess, args=(tree, store, spec), kwargs=settings)
        process.start()
        while process.is_alive():
            made = len(list((store / "scans").rglob("*.b2nd"))) if store.exists() else 0
            if (made >= after >= 0) or (after < 0 and (store / "index.arrow").exists()):
                os.kill(process.pid, signal.SIGKILL)
                break
            time.sleep(0.005)
        process.join()

    return run
