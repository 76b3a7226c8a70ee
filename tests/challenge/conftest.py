from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fomo_ssl.downstream.models import TaskModel, TaskSpec, save_model
from fomo_ssl.encoders import create_encoder
from fomo_ssl.imaging.nifti import write
from fomo_ssl.synthetic.phantoms import phantom

SPEC = TaskSpec("toy", "segmentation", ("flair", "dwi_b1000", "swi"), 2, (32, 32, 32), 4.0, 2.0, True)
SPECS = {
    "meningioma": SPEC,
    "infarct": replace(SPEC, kind="classification", sequences=("flair", "adc", "swi|t2s")),
    "age": replace(SPEC, kind="regression", sequences=("t1", "t2"), classes=1, target_mean=50.0, target_std=10.0),
}


@pytest.fixture(scope="package")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of each task with random weights."""
    root = tmp_path_factory.mktemp("bundles")
    for name, spec in SPECS.items():
        save_model(root / name / "00", TaskModel(create_encoder("unet_t", len(spec.sequences)), spec), {})
    return root


@pytest.fixture(scope="package")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders `meningioma`, `infarct` and `age` as the organisers hand them out; axes flipped, 4 x 4 x 5 mm."""
    root = tmp_path_factory.mktemp("data")
    affine = np.diag([-4.0, -4.0, 5.0, 1.0])
    affine[:3, 3] = [60.0, 71.5, -17.0]
    names = {
        "meningioma": ("flair", "dwi_b1000", "t2s"),
        "infarct": ("flair", "dwi_b1000", "adc", "swi"),
        "age": ("t1", "t2"),
    }
    for task, sequences in names.items():
        for subject, sequence in ((s, q) for s in ("sub_1", "sub_2") for q in sequences):
            scan = phantom(len(sequence), shape=(28, 32, 24)).data
            write(root / task / "preprocessed" / subject / "ses_1" / f"{sequence}.nii.gz", scan, affine)
    return root
