"""From a run directory as it was left to the end of the budget: what stands around Lightning's loop."""

import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L

from fomo_ssl.core.device import uses_gpu
from fomo_ssl.core.errors import RunError, StoreError
from fomo_ssl.core.files import write_text
from fomo_ssl.data.augment import Augmenter
from fomo_ssl.data.loader import UnreadableScan, named_worker_death
from fomo_ssl.layers.recompute import set_grad_checkpointing
from fomo_ssl.training.callbacks.cost import Cost
from fomo_ssl.training.callbacks.health import Health
from fomo_ssl.training.callbacks.previews import Previews
from fomo_ssl.training.callbacks.profiling import Profiling
from fomo_ssl.training.callbacks.progress import ProgressBar
from fomo_ssl.training.callbacks.recorder import Recorder
from fomo_ssl.training.callbacks.saving import Saving
from fomo_ssl.training.checkpoint import newest_checkpoint, samples_of, seed_everything
from fomo_ssl.training.compiling import compile_regions
from fomo_ssl.training.loggers import build_loggers, wandb_run
from fomo_ssl.training.module import PretrainModule
from fomo_ssl.training.ranks import Ranks
from fomo_ssl.training.settings import RunConfig
from fomo_ssl.training.sharding import Gathering, gather, with_shards
from fomo_ssl.training.source import CropSource
from fomo_ssl.training.trainer import build_trainer, quiet
from fomo_ssl.training.unreadable import UnreadableScans


def fit(run: Path, module: PretrainModule, source: CropSource, config: RunConfig, precision: str) -> dict[str, Any]:
    """Train to the end of the budget from the newest whole checkpoint.

    Returns:
        `samples_per_second`, `health_seconds` of all looks, and `flops_per_sample` or None.

    Raises:
        RunError: no checkpoint opens, or the disk is full.
        NonFiniteLossError, CollapseError, KeyboardInterrupt, SystemExit: see `pretrain`.
    """
    ranks = module.ranks
    checkpoint = _begin(run, config, ranks)
    start = samples_of(checkpoint) if checkpoint else 0
    unreadable = UnreadableScans(run, config.data.max_unreadable, ranks.rank)
    on_gpu = uses_gpu(config.trainer.get("accelerator"))
    stream = source.stream(config.batch_size, config.steps, start, unreadable, ranks, on_gpu)
    cost = Cost(precision)
    recorder = Recorder(config.log_every, lambda: stream.waited, cost.numbers if ranks.first else None)
    saving = Saving(run / "checkpoints", config.checkpoint_every, config.keep_at)
    health = _health(run, source, config, unreadable, ranks) if ranks.first else None
    callbacks: list[L.Callback] = [recorder, Gathering((config.preview_every, config.health.every))]
    if ranks.first:
        # Saving comes after everything whose state it saves, or whose files it must not run ahead of.
        callbacks.append(cost)
        callbacks += [Profiling(run / "profile")] if config.profile else []
        previews = _previews(run, module, source, config, lambda error: unreadable(UnreadableScan(start, error)))
        callbacks += [*previews, *([health] if health else []), saving]
        callbacks.append(ProgressBar(recorder, config.steps * config.batch_size, health))
    else:
        callbacks.append(saving)
    seed_everything(config.seed + ranks.rank)  # drop-path differs between ranks, the weights are there already
    set_grad_checkpointing(module.objective, config.grad_checkpointing)
    if config.compile:
        compile_regions(module.objective)
    loggers = build_loggers(run, start, config.wandb) if ranks.first else []

    def judge() -> None:
        if health is not None and health.collapsed is not None:
            raise health.collapsed

    with quiet(), wandb_run(loggers):
        trainer = build_trainer(
            run,
            steps=config.steps,
            precision=precision,
            loggers=loggers,
            callbacks=callbacks,
            options=with_shards(config.trainer, ranks),
            ranks=ranks,
        )
        try:
            with named_worker_death():
                trainer.fit(module, stream, ckpt_path=checkpoint)
        except SystemExit as error:
            # Lightning turns an interrupt outside our handlers, such as a second Ctrl-C, into exit code 1.
            raise KeyboardInterrupt if isinstance(error.__context__, KeyboardInterrupt) else error from None
        ranks.on_first(judge)
        if module.samples_seen < config.steps * config.batch_size:
            _leave(module, saving)
    gather(module)  # for the bundle
    seconds = 0.0 if health is None else health.seconds
    return {
        "samples_per_second": recorder.samples_per_second,
        "health_seconds": round(seconds, 3),
        "flops_per_sample": cost.flops_per_sample,
    }


def _begin(run: Path, config: RunConfig, ranks: Ranks) -> Path | None:
    """The state to go on from: the run's own newest one, else that of a longer run, else None."""

    def find() -> Path | None:
        newest = newest_checkpoint(run / "checkpoints", lambda line: print(line, file=sys.stderr))
        if newest is None and config.start_from is not None:
            # The log leaves out the rows past the state, as for a run of its own that is continued.
            write_text(run / "metrics.csv", (config.start_from.parents[1] / "metrics.csv").read_text())
        return newest or config.start_from

    return ranks.on_first(find)


def _leave(module: PretrainModule, saving: Saving) -> None:
    """End a run that stopped before its end, after it saved."""
    if saving.stopped_by is None and module.ranks.first:
        way_out = "Continue with resume=auto; do trainer settings end the run?"
        raise RunError(f"Lightning stopped the run after {module.samples_seen} samples", way_out=way_out)
    if saving.stopped_by is None:
        raise SystemExit(2)  # the first of several processes says why
    if module.ranks.first:
        print(f"stopped after {module.samples_seen} samples; continue with resume=auto", file=sys.stderr)
    if saving.stopped_by == signal.SIGINT:
        raise KeyboardInterrupt
    if saving.stopped_by != signal.SIGTERM:
        signal.raise_signal(saving.stopped_by)  # whose handler requeues the job and ends this process
    raise SystemExit(128 + saving.stopped_by)


def _previews(
    run: Path,
    module: PretrainModule,
    source: CropSource,
    config: RunConfig,
    on_unreadable: Callable[[StoreError], None],
) -> list[L.Callback]:
    held_out = source.held_out_batch(on_unreadable)
    if held_out is None:
        return []
    look = Augmenter("none", module.objective.views)
    return [Previews(run / "previews", look(held_out), config.preview_every)]


def _health(
    run: Path, source: CropSource, config: RunConfig, unreadable: UnreadableScans, ranks: Ranks
) -> Health | None:
    if not config.health.enabled:
        return None
    return Health(
        source,
        config.health,
        samples=config.steps * config.batch_size,
        # No more crops at once than training holds.
        batch_size=config.batch_size // (ranks.world * config.accumulate),
        folder=run / "previews",
        on_unreadable=unreadable,
    )
