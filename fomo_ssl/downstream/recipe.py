"""The values of a finetuning run; what suits each kind of task stands in `conf/task/<kind>.yaml`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fomo_ssl.core.types import Triple
from fomo_ssl.downstream.models import Fusion, Inflation
from fomo_ssl.heads.pooling import Pool, PoolMaps


@dataclass(frozen=True)
class Recipe:
    """How a head and its encoder are trained; the same for the pretrained arm and its twin.

    Attributes:
        steps, batch_size: length of the training and samples a step.
        crop: voxels of the network's input; None takes the largest volume of the task, at most `max_crop` an axis.
        spacing: mm; None takes the bundle's.
        crop_foreground: cut the air around the head away first.
        lr, weight_decay: of AdamW, at the peak.
        encoder_lr_scale: the pretrained encoder's rate as a share of `lr`; the twin's is always 1.
        warmup: share of the steps with a rising rate; a cosine falls to zero after it.
        freeze: share of the steps in which only the head of the pretrained arm moves; the twin's encoder never waits.
        clip: largest norm of the gradient.
        foreground: share of segmentation crops that aim at a foreground voxel.
        augment, switches: preset of `Augmenter`, and its transforms switched off, on, or given other values.
        ema: decay of the running mean of the weights that is tested; 0 tests the last weights.
        precision: `auto` or one of Lightning's names, such as `bf16-mixed`.
        fusion: several sequences enter one stem (`early`), or each its own pass, whose maps are averaged (`late`) or
            put side by side (`concat`).
        inflation: how the stem of a one-sequence bundle reads several, see `pretrained_encoder`.
        pool, pool_maps, pool_share: what a whole-scan task keeps of space, see `build_head`.
        tolerance: of surface Dice, mm.
        validate_every: steps between looks at the validation cases, where a split has any.
    """

    steps: int
    batch_size: int
    crop: Triple | None = None
    max_crop: int = 96
    spacing: float | None = None
    crop_foreground: bool = False
    lr: float = 1e-3
    weight_decay: float = 0.01
    encoder_lr_scale: float = 1.0
    warmup: float = 0.05
    freeze: float = 0.0
    clip: float = 1.0
    foreground: float = 0.5
    augment: str = "all"
    switches: Mapping[str, bool | Mapping[str, Any]] = field(default_factory=dict)
    ema: float = 0.0
    precision: str = "auto"
    fusion: Fusion = "early"
    inflation: Inflation = "random"
    pool: Pool = "mean"
    pool_maps: PoolMaps = "last"
    pool_share: float = 0.002
    tolerance: float = 1.0
    validate_every: int = 100
