"""The plain values that a pretraining run is made of."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fomo_ssl.core.types import Triple
from fomo_ssl.training.callbacks.health import HealthConfig
from fomo_ssl.training.optim import OptimConfig
from fomo_ssl.training.source import DataConfig


@dataclass(frozen=True)
class RunConfig:
    """The plain values of a run.

    Attributes:
        samples: the budget, rounded up to whole batches.
        batch_size: samples a step.
        accumulate: micro-batches that a step's samples are split into, in order; their gradients and losses are
            averaged. Objectives that compare the samples of a batch compare those of a micro-batch.
        crop: voxels along x, y, z.
        seed: of the split, the order, the crops and the augmentation; weights are seeded before they are built.
        optim, data: optimizer and data settings.
        precision: `auto`, `32-true`, `bf16-mixed` or `16-mixed`.
        compile: compile the network's blocks: minutes at the start, then faster steps on a GPU.
        grad_checkpointing: recompute activations in the backward pass: less memory, slower steps, the same result.
        checkpoint_every, preview_every: samples between checkpoints, and between looks at held-out scans.
        log_every: steps between rows of the log.
        profile: watch a few steps with torch's profiler, into `profile/`.
        health: looks at the encoder's embeddings, and the alarm.
        trainer: further arguments of Lightning's `Trainer`.
        wandb: arguments of Lightning's `WandbLogger`; None does not use it.
        keep_at: samples seen at which a state is written and kept for shorter runs.
        start_from: such a state of a longer run whose recipe is the same up to there; None starts at the beginning.
    """

    samples: int
    batch_size: int
    crop: Triple
    seed: int = 0
    accumulate: int = 1
    optim: OptimConfig = field(default_factory=OptimConfig)
    data: DataConfig = field(default_factory=DataConfig)
    precision: str = "auto"
    compile: bool = False
    grad_checkpointing: bool = False
    checkpoint_every: int = 10_000
    preview_every: int = 10_000
    log_every: int = 10
    profile: bool = False
    health: HealthConfig = field(default_factory=HealthConfig)
    trainer: Mapping[str, Any] = field(default_factory=dict)
    wandb: Mapping[str, Any] | None = None
    keep_at: tuple[int, ...] = ()
    start_from: Path | None = None

    @property
    def steps(self) -> int:
        return math.ceil(self.samples / self.batch_size)
