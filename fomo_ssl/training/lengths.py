"""Several lengths of pretraining for little more than the longest: one constant rate, and a decaying tail for each.

The longest run keeps the states at which the tails of the shorter ones begin; each shorter run starts there and trains
its tail alone (Hägele et al. 2024, arXiv 2405.18392). Its bundle is that of a run of its own, on CPU bit for bit.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fomo_ssl.core.errors import ConfigError, RunError
from fomo_ssl.data.augment import Augmenter
from fomo_ssl.objectives.base import Objective
from fomo_ssl.training.callbacks.saving import branch_point
from fomo_ssl.training.optim import tail_steps
from fomo_ssl.training.record import Resume
from fomo_ssl.training.run import PretrainResult, RunConfig, pretrain


def plan(config: RunConfig, lengths: Sequence[int]) -> list[RunConfig]:
    """A configuration a length, longest first; all warm up over as many steps as the shortest would alone.

    Raises:
        ConfigError: the schedule is not `constant`, a length comes twice, or warm-up and tail leave nothing between.
    """
    if config.optim.schedule != "constant":
        raise ConfigError("budget.lengths needs a constant rate", way_out="Give optim=constant_then_decay")
    runs = sorted((replace(config, samples=length) for length in lengths), key=lambda run: run.steps, reverse=True)
    if len({run.steps for run in runs}) < len(lengths):
        raise ConfigError("two of budget.lengths are of one length", way_out="Lengths are rounded up to whole batches")
    warmup = max(1, round(config.optim.warmup * runs[-1].steps))
    if warmup > branch_step(runs[-1]):
        raise ConfigError("the shortest length has its tail before the warm-up ends", way_out="Lower optim.tail")
    return [replace(run, optim=replace(run.optim, warmup=warmup / run.steps)) for run in runs]


def branch_step(config: RunConfig) -> int:
    """The step at which the tail begins; the last whose rate is the peak."""
    return config.steps - tail_steps(config.steps, config.optim)


def folder(run: Path, config: RunConfig) -> Path:
    """Where the run of one length lies."""
    return run / f"samples_{config.samples}"


def pretrain_lengths(
    lengths: Sequence[int],
    *,
    store: Path,
    run: Path,
    build: Callable[[], tuple[Objective, Augmenter]],
    config: RunConfig,
    resume: Resume = "never",
    recipe: Mapping[str, Any] | None = None,
    init: Path | None = None,
) -> list[PretrainResult]:
    """Pretrain at several lengths; `run/samples_<length>` is a run directory like any other.

    Args:
        lengths: budgets in samples.
        build: gives a freshly built objective and its augmentation, the same each time.
        store, run, config, resume, recipe, init: as of `pretrain`; `config.samples` is not used.

    Returns:
        One result a length, longest first.

    Raises:
        ConfigError, RunError: see `plan` and `pretrain`, or the longest run did not keep a state that is needed.
    """
    planned = plan(config, lengths)
    trunk = folder(run, planned[0])
    points = [branch_step(one) * one.batch_size for one in planned[1:]]
    planned[0] = replace(planned[0], keep_at=tuple(sorted(points)))
    results = []
    for one, point in zip(planned, [None, *points], strict=True):
        if point is not None:
            start = branch_point(trunk, point)
            if not start.is_file():
                way_out = "Give another run=; a length cannot be added once the longest run has passed its tail"
                raise RunError(f"the longest run kept no state at {point} samples", where=trunk, way_out=way_out)
            one = replace(one, start_from=start)
        objective, augment = build()
        results.append(
            pretrain(
                store=store,
                run=folder(run, one),
                objective=objective,
                augment=augment,
                config=one,
                resume=resume,
                recipe=recipe,
                init=init,
            )
        )
    return results
