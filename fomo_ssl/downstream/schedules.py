"""Which weights of a task model move when, and how fast: schedules of finetuning and layer-wise decay."""

from collections.abc import Callable
from typing import Any

from fomo_ssl.downstream.models import TaskModel
from fomo_ssl.downstream.recipe import Recipe
from fomo_ssl.encoders import Encoder
from fomo_ssl.training.optim import OptimConfig, parameter_groups, rate_factor

Factor = Callable[[int], float]
"""The learning rate of a step as a share of the peak."""


def factors(recipe: Recipe) -> tuple[Factor, Factor]:
    """Of the encoder and of the head.

    full: a warm-up and a cosine to zero for both. probe: the encoder stands still. warmup: the same curve, but the
    encoder stands still for the first `freeze` of the steps. sawtooth: the head's rate rises over those steps, alone;
    then both begin again from zero with a warm-up and a cosine (Wald et al. 2024, arXiv 2412.17041).
    """
    optim, wait = OptimConfig(warmup=recipe.warmup), round(recipe.freeze * recipe.steps)

    def full(step: int) -> float:
        return rate_factor(step, recipe.steps, optim)

    def still(step: int) -> float:
        return 0.0

    def late(step: int) -> float:
        return 0.0 if step < wait else full(step)

    def again(step: int) -> float:
        return 0.0 if step < wait else rate_factor(step - wait, recipe.steps - wait, optim)

    def twice(step: int) -> float:
        return (step + 1) / wait if step < wait else again(step)

    return {"full": (full, full), "probe": (still, full), "warmup": (late, full), "sawtooth": (again, twice)}[
        recipe.schedule
    ]


def layer_scales(encoder: Encoder, decay: float) -> dict[str, float]:
    """Of every parameter's rate: 1 in the encoder's last layer group, `decay` times as much with every group before.

    Clark et al. 2020 (arXiv 2003.10555) and BEiT (arXiv 2106.08254); the groups are the encoder's `layer_groups`.
    """
    groups = encoder.layer_groups()
    scale_of = {prefix: decay ** (len(groups) - 1 - depth) for depth, group in enumerate(groups) for prefix in group}
    scales = {}
    for name, _ in encoder.named_parameters():
        # The longest prefix: `blocks.1` is no prefix of `blocks.10`.
        parts = name.split(".")
        heads = (".".join(parts[:length]) for length in range(len(parts), 0, -1))
        scales[name] = next(scale_of[head] for head in heads if head in scale_of)
    return scales


def optimizer_groups(model: TaskModel, recipe: Recipe) -> tuple[list[dict[str, Any]], list[Factor]]:
    """Parameter groups with their peak rates, and each group's schedule; the encoder's first, the head's last."""
    encoder = model.encoder
    if recipe.schedule == "probe":
        encoder.requires_grad_(False)
    named = dict(encoder.named_parameters())
    no_decay = [named[name] for name in sorted(encoder.no_weight_decay())]
    scale_of = {id(named[name]): scale for name, scale in layer_scales(encoder, recipe.layer_decay).items()}
    groups: list[dict[str, Any]] = []
    for group in parameter_groups(encoder, no_decay, recipe.weight_decay):
        for scale in sorted({scale_of[id(parameter)] for parameter in group["params"]}):
            chosen = [parameter for parameter in group["params"] if scale_of[id(parameter)] == scale]
            groups.append(group | {"params": chosen, "lr": recipe.lr * recipe.encoder_lr_scale * scale})
    of_head = parameter_groups(model.head, (), recipe.weight_decay)
    of_encoder, head = factors(recipe)
    return [*groups, *of_head], [*[of_encoder] * len(groups), *[head] * len(of_head)]
