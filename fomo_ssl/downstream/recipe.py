"""The values of a finetuning run; what suits each kind of task stands in `conf/task/<kind>.yaml`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from fomo_ssl.core.types import Triple
from fomo_ssl.downstream.models import Axis, Fusion, Inflation
from fomo_ssl.heads.pooling import Pool, PoolMaps

Schedule = Literal["full", "probe", "warmup", "sawtooth"]
SCHEDULES: tuple[Schedule, ...] = get_args(Schedule)


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
        schedule: what moves when, see `schedules.factors`; the twin's is `full`, but for a probe.
        freeze: share of the steps in which only the head of the pretrained arm moves, for `warmup` and `sawtooth`.
        layer_decay: a layer group's rate in the pretrained encoder as a share of the next one's; the twin's is 1.
        lora_rank, lora_alpha: low-rank updates of the pretrained encoder's attention in place of its weights, see
            `fomo_ssl.layers.lora`; rank 0 moves the weights, as the twin always does.
        clip: largest norm of the gradient.
        foreground: share of segmentation crops that aim at a foreground voxel.
        augment, switches: preset of `Augmenter`, and its transforms switched off, on, or given other values.
        ema: decay of the running mean of the weights that is tested; 0 tests the last weights.
        precision: `auto`, `32-true`, `bf16-mixed` or `16-mixed`.
        fusion: several sequences enter one stem (`early`), or each its own pass, whose maps are averaged (`late`) or
            put side by side (`concat`), or each an encoder of its own (`separate`).
        inflation: how the stem of a one-sequence bundle reads several, see `pretrained_encoder`.
        pool, pool_maps, pool_share: what a whole-scan task keeps of space, see `build_head`.
        mirror: axes over whose mirror images predictions are means: x from left to right, y from back to front, z up.
        tolerance: of surface Dice, mm.
        validate_every: steps between looks at the validation cases, where there are any.
        early_stopping: hold `hold_out` of the training subjects back, stop after `patience` looks at them without a
            lower loss, and keep the weights of the lowest.
        patience, hold_out: of early stopping.
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
    schedule: Schedule = "full"
    freeze: float = 0.25
    layer_decay: float = 1.0
    lora_rank: int = 0
    lora_alpha: float = 16.0
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
    mirror: tuple[Axis, ...] = ()
    tolerance: float = 1.0
    validate_every: int = 100
    early_stopping: bool = False
    patience: int = 5
    hold_out: float = 0.2
