"""A step in micro-batches is the step of the whole batch."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from training_runs import file_digests, small_run

from fomo_ssl.core.errors import ConfigError
from fomo_ssl.training.callbacks.health import HealthConfig
from fomo_ssl.training.reading import read_metrics
from fomo_ssl.training.source import DataConfig

# Nothing but steps: no looks, no pictures.
BARE: dict[str, Any] = {"health": HealthConfig(enabled=False), "data": DataConfig(held_out=0, workers=0)}


def weights(run: Path) -> dict[str, torch.Tensor]:
    encoder = load_file(run / "bundle" / "encoder.safetensors")
    return encoder | load_file(run / "bundle" / "pretraining" / "objective.safetensors")


def assert_same_run(one: Path, other: Path) -> None:
    """The same rows of the log and the same weights, but for the order of sums.

    A bias before a norm has no gradient but rounding, which AdamW makes as large as any: vectors are left out.
    """
    rows = [
        [
            [row[name] for name in ("samples", "loss", "grad_norm", "lr")]
            for row in read_metrics(run / "metrics.csv")
            if "loss" in row
        ]
        for run in (one, other)
    ]
    assert rows[0]
    np.testing.assert_allclose(*rows, rtol=1e-4)
    first_weights, second_weights = weights(one), weights(other)
    assert first_weights.keys() == second_weights.keys()
    for name, value in first_weights.items():
        if value.ndim > 1:
            assert float((value - second_weights[name]).norm() / value.norm()) < 1e-3, name


@pytest.mark.parametrize(
    ("objective", "settings"), [("mae", {"loss_mask": False}), ("denoising", {})], ids=["mae", "denoising"]
)
def test_micro_batches_give_the_step_of_the_batch(
    store: Path, tmp_path: Path, objective: str, settings: dict[str, Any]
) -> None:
    common = {"objective": objective, "settings": settings, "batch_size": 4, "samples": 24, "log_every": 1, **BARE}
    small_run(store, tmp_path / "whole", **common)
    small_run(store, tmp_path / "split", accumulate=2, **common)
    assert_same_run(tmp_path / "whole", tmp_path / "split")


@pytest.mark.parametrize("objective", ["moco", "self_distillation"])
def test_queues_and_centres_move_once_a_step_by_all_its_samples(store: Path, tmp_path: Path, objective: str) -> None:
    """One step: the teacher has not moved yet, so what it says of each sample is the same in both runs."""
    settings = {"moco": {"queue": 12}, "self_distillation": {"prototypes": 16}}[objective]
    common = {"objective": objective, "settings": settings, "batch_size": 4, "samples": 4, "log_every": 1, **BARE}
    small_run(store, tmp_path / "whole", **common)
    small_run(store, tmp_path / "split", accumulate=2, **common)
    whole, split = weights(tmp_path / "whole"), weights(tmp_path / "split")
    if objective == "moco":
        assert int(split["filled"]) == int(whole["filled"]) == 8
        # The same rows in another order: first all samples' first views, or micro-batch by micro-batch.
        torch.testing.assert_close(whole["queue"].sort(0).values, split["queue"].sort(0).values)
    else:
        assert whole["center"].abs().max() > 0.0
        for name in ("center", "patch_center"):
            torch.testing.assert_close(whole[name], split[name])


def test_resume_is_exact_with_micro_batches(store: Path, tmp_path: Path) -> None:
    common = {"objective": "moco", "settings": {"queue": 12}, "batch_size": 4, "accumulate": 2, "samples": 24, **BARE}
    small_run(store, tmp_path / "whole", **common)
    small_run(store, tmp_path / "half", **common)
    (tmp_path / "half" / "checkpoints" / "samples_000000000024.ckpt").unlink()
    record = tmp_path / "half" / "run.json"
    record.write_text(record.read_text().replace('"finished"', '"running"'))
    small_run(store, tmp_path / "half", resume="auto", **common)
    assert file_digests(tmp_path / "half" / "bundle") == file_digests(tmp_path / "whole" / "bundle")


def test_a_batch_that_cannot_be_split_evenly_is_refused(store: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="batch_size=2 is no multiple of accumulate=3"):
        small_run(store, tmp_path / "run", accumulate=3)
