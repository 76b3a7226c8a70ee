from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from fomo_ssl.bundle import BundleConfig, InputContract, save_bundle
from fomo_ssl.encoders import create_encoder
from fomo_ssl.imaging.nifti import write

# Small, and deep enough for two levels of skips.
ENCODER, ARGUMENTS = "resenc_t", {"channels": (4, 8, 8), "blocks": (1, 1, 1)}


def ball(shape: tuple[int, int, int], centre: np.ndarray, radius: float) -> np.ndarray:
    grid = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"), axis=-1)
    return np.linalg.norm(grid - centre, axis=-1) <= radius


def draw_case(seed: int, shape: tuple[int, int, int] = (20, 24, 18)) -> tuple[np.ndarray, np.ndarray]:
    """A noisy head with a bright ball (class 1) beside a dark one (class 2)."""
    generator = np.random.default_rng(seed)
    mask = np.zeros(shape, np.uint8)
    middle = np.array(shape) / 2 + generator.uniform(-2, 2, 3)
    aside = np.array([4.0, 0.0, 0.0])
    mask[ball(shape, middle - aside, 3.2)] = 1
    mask[ball(shape, middle + aside, 3.2)] = 2
    image = 100.0 + 10.0 * generator.normal(size=shape) + 80.0 * (mask == 1) - 60.0 * (mask == 2)
    return image.astype(np.float32), mask


@pytest.fixture
def make_task(tmp_path: Path) -> Callable[..., Path]:
    """A task folder in the FOMO layout: `make_task("segmentation", 6, sequences=("t1", "flair"))`."""

    def make(kind: str, cases: int, sequences: tuple[str, ...] = ("t1",), affine: np.ndarray | None = None) -> Path:
        root = tmp_path / f"task_{kind}"
        affine = np.diag([-1.0, 1.0, 1.0, 1.0]) if affine is None else affine
        for number in range(cases):
            image, mask = draw_case(number)
            place = f"sub_{number}/ses_1"
            (root / "preprocessed" / place).mkdir(parents=True)
            (root / "labels" / place).mkdir(parents=True)
            for k, sequence in enumerate(sequences):
                brighter = image + (20.0 * (number % 2) if kind == "classification" else 3.0 * number) * (k == 0)
                write(root / "preprocessed" / place / f"{sequence}.nii.gz", brighter, affine)
            if kind == "segmentation":
                write(root / "labels" / place / "seg.nii.gz", mask, affine)
            else:
                text = str(number % 2) if kind == "classification" else f"{40.0 + 3 * number}"
                (root / "labels" / place / "label.txt").write_text(text)
        return root

    return make


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A bundle of a small encoder with seeded weights."""
    torch.manual_seed(0)
    encoder = create_encoder(ENCODER, **ARGUMENTS)
    contract = InputContract(("t1",), spacing=1.0, max_upsample=2.0, crop=(16, 16, 16))
    config = BundleConfig(ENCODER, dict(ARGUMENTS), 1, contract, {"samples": 0})
    save_bundle(tmp_path / "pretrained", encoder, config)
    return tmp_path / "pretrained"
