"""One pretraining run from a store to a bundle, in a run directory that can be continued after any kill."""

import math
import signal
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import lightning as L

from fomo_ssl.bundle import BundleConfig, InputContract, save_bundle
from fomo_ssl.core.errors import CollapseError
from fomo_ssl.core.types import Triple
from fomo_ssl.data.augment import Augmenter
from fomo_ssl.data.loader import named_worker_death
from fomo_ssl.objectives.base import Objective
from fomo_ssl.training.callbacks.health import Health, HealthConfig
from fomo_ssl.training.callbacks.previews import Previews
from fomo_ssl.training.callbacks.progress import ProgressBar
from fomo_ssl.training.callbacks.recorder import Recorder
from fomo_ssl.training.callbacks.saving import Saving
from fomo_ssl.training.checkpoint import newest_checkpoint, samples_of, seed_everything
from fomo_ssl.training.compiling import compile_regions
from fomo_ssl.training.loggers import build_loggers
from fomo_ssl.training.module import PretrainModule
from fomo_ssl.training.optim import OptimConfig
from fomo_ssl.training.reading import read_metrics
from fomo_ssl.training.record import Resume, circumstances, claim, digest, write_record
from fomo_ssl.training.source import CropSource, DataConfig
from fomo_ssl.training.trainer import build_trainer, check_options, choose_precision, quiet
from fomo_ssl.training.unreadable import UnreadableScans

_NOT_DECISIVE = ("workers", "max_unreadable", "exclude")  # data settings that do not change a result, or say where


@dataclass(frozen=True)
class RunConfig:
    """The plain values of a run.

    Attributes:
        samples: the budget, rounded up to whole batches.
        batch_size: samples a step.
        crop: voxels along x, y, z.
        seed: of the split, the order, the crops and the augmentation; weights are seeded before they are built.
        optim, data: optimizer and data settings.
        precision: `auto` or one of Lightning's names.
        compile: compile the network's blocks: minutes at the start, then faster steps on a GPU.
        checkpoint_every, preview_every: samples between checkpoints, and between looks at held-out scans.
        log_every: steps between rows of the log.
        health: looks at the encoder's embeddings, and the alarm.
        trainer: further arguments of Lightning's `Trainer`.
        wandb: arguments of Lightning's `WandbLogger`; None does not use it.
    """

    samples: int
    batch_size: int
    crop: Triple
    seed: int = 0
    optim: OptimConfig = field(default_factory=OptimConfig)
    data: DataConfig = field(default_factory=DataConfig)
    precision: str = "auto"
    compile: bool = False
    checkpoint_every: int = 10_000
    preview_every: int = 10_000
    log_every: int = 10
    health: HealthConfig = field(default_factory=HealthConfig)
    trainer: Mapping[str, Any] = field(default_factory=dict)
    wandb: Mapping[str, Any] | None = None

    @property
    def steps(self) -> int:
        return math.ceil(self.samples / self.batch_size)


@dataclass(frozen=True)
class PretrainResult:
    """What came of a run.

    Attributes:
        run, bundle: folders.
        samples: samples seen.
        samples_per_second: of the process that ended the run.
        loss_first, loss_last: means of the first and of the last tenth of the recorded training losses.
        n_parameters: of the encoder.
    """

    run: Path
    bundle: Path
    samples: int
    samples_per_second: float
    loss_first: float
    loss_last: float
    n_parameters: int


def pretrain(
    *,
    store: Path,
    run: Path,
    objective: Objective,
    augment: Augmenter,
    config: RunConfig,
    resume: Resume = "never",
    recipe: Mapping[str, Any] | None = None,
) -> PretrainResult:
    """Pretrain `objective.encoder` and write `run/bundle`.

    Args:
        store: a preprocessed store.
        run: run directory.
        objective: with its encoder, freshly built; trained in place.
        augment: augmentation on the device.
        config: everything else.
        resume: `auto` continues the run of the same recipe in `run`, and returns at once where it is finished;
            `never` wants an empty folder.
        recipe: plain values that say how `objective` and `augment` were built; recorded, and compared at resume.

    Raises:
        StoreError, ConfigError: the store or a setting cannot be used.
        RunError: the folder holds something else, no checkpoint opens, or the disk is full.
        NonFiniteLossError: names the scans of the batch.
        CollapseError: the alarm rang; a whole checkpoint is written before.
        KeyboardInterrupt, SystemExit: after SIGINT, and with 143 after SIGTERM; a whole checkpoint is written before.
    """
    options = check_options(config.trainer)
    precision = choose_precision(config.precision, str(options.get("accelerator", "auto")))
    source = CropSource.open(store, config.data, objective.views, config.crop, config.seed)
    full_recipe = _recipe(objective, config, precision, source, recipe or {"objective": type(objective).__name__})
    record = claim(run, full_recipe, resume)
    if record is None or record["status"] != "finished":
        record = {
            "status": "running",
            "n_parameters": sum(p.numel() for p in objective.encoder.parameters()),
            "store": str(store),
            **source.summary(),
            "recipe_digest": digest(full_recipe),
            "recipe": full_recipe,
            "health": asdict(config.health),
            "circumstances": circumstances(),
        }
        write_record(run, record)
        module = PretrainModule(objective, augment, config.optim, config.steps, source.name_scans)
        try:
            pace = _fit(run, module, source, config, precision)
        except CollapseError as error:
            write_record(run, record | {"status": "collapsed", "reason": str(error), "samples": module.samples_seen})
            raise
        _release(run / "bundle", objective, source, full_recipe)
        losses = [row["loss"] for row in read_metrics(run / "metrics.csv") if "loss" in row]
        tenth = max(1, len(losses) // 10)
        record |= {
            "status": "finished",
            "samples": module.samples_seen,
            **pace,
            "unreadable_scans": len(UnreadableScans(run, config.data.max_unreadable)),
            "loss_first": sum(losses[:tenth]) / tenth,
            "loss_last": sum(losses[-tenth:]) / tenth,
        }
        write_record(run, record)
    numbers = {key: record[key] for key in ("samples", "samples_per_second", "loss_first", "loss_last", "n_parameters")}
    return PretrainResult(run=run, bundle=run / "bundle", **numbers)


def _recipe(
    objective: Objective, config: RunConfig, precision: str, source: CropSource, recipe: Mapping[str, Any]
) -> dict[str, Any]:
    """All that decides the result, as plain values; where and how it is computed is left out."""
    encoder = objective.encoder
    return {
        "encoder": {"name": encoder.name, "in_channels": encoder.in_channels, **encoder.arguments},
        **recipe,
        "crop": list(config.crop),
        "batch_size": config.batch_size,
        "samples": config.steps * config.batch_size,
        "seed": config.seed,
        "precision": precision,
        "compile": config.compile,
        "optim": asdict(config.optim),
        "data": {key: value for key, value in asdict(config.data).items() if key not in _NOT_DECISIVE},
        "excluded": digest({"rows": source.excluded.tolist()}),
        "data_fingerprint": source.store.fingerprint,
    }


def _fit(run: Path, module: PretrainModule, source: CropSource, config: RunConfig, precision: str) -> dict[str, float]:
    """Train to the end of the budget from the newest whole checkpoint; returns samples/s, and seconds of all looks."""
    checkpoint = newest_checkpoint(run / "checkpoints", lambda line: print(line, file=sys.stderr))
    start = samples_of(checkpoint) if checkpoint else 0
    unreadable = UnreadableScans(run, config.data.max_unreadable)
    stream = source.stream(config.batch_size, config.steps, start, unreadable)
    recorder = Recorder(config.log_every, lambda: stream.waited)
    saving = Saving(run / "checkpoints", config.checkpoint_every)
    callbacks: list[L.Callback] = [recorder]
    held_out = source.held_out_batch()
    if held_out is not None:
        look = Augmenter("none", module.objective.views)
        callbacks.append(Previews(run / "previews", look(held_out), config.preview_every))
    health = _health(run, source, config, unreadable)
    if health is not None:
        callbacks.append(health)
    # Saving comes after everything whose state it saves, or whose files it must not run ahead of.
    callbacks += [saving, ProgressBar(recorder, config.steps * config.batch_size, health)]
    seed_everything(config.seed)
    if config.compile:
        compile_regions(module.objective)
    with quiet():
        trainer = build_trainer(
            run,
            steps=config.steps,
            precision=precision,
            loggers=build_loggers(run, start, config.wandb),
            callbacks=callbacks,
            options=config.trainer,
        )
        try:
            with named_worker_death():
                trainer.fit(module, stream, ckpt_path=checkpoint)
        except SystemExit as error:
            # Lightning turns an interrupt outside our handlers, such as a second Ctrl-C, into exit code 1.
            raise KeyboardInterrupt if isinstance(error.__context__, KeyboardInterrupt) else error from None
    if health is not None and health.collapsed is not None:
        raise health.collapsed
    if saving.stopped_by is not None and module.samples_seen < config.steps * config.batch_size:
        print(f"stopped after {module.samples_seen} samples; continue with resume=auto", file=sys.stderr)
        if saving.stopped_by == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + saving.stopped_by)
    seconds = 0.0 if health is None else health.seconds
    return {"samples_per_second": recorder.samples_per_second, "health_seconds": round(seconds, 3)}


def _health(run: Path, source: CropSource, config: RunConfig, unreadable: UnreadableScans) -> Health | None:
    if not config.health.enabled:
        return None
    return Health(
        source,
        config.health,
        samples=config.steps * config.batch_size,
        batch_size=config.batch_size,
        folder=run / "previews",
        on_unreadable=unreadable,
    )


def _release(path: Path, objective: Objective, source: CropSource, recipe: Mapping[str, Any]) -> None:
    """The bundle: nothing in it depends on time, machine or the number of interruptions."""
    encoder, spec = objective.encoder, source.store.spec
    contract = InputContract(
        sequences=source.sequences,
        spacing=spec.spacing,
        max_upsample=spec.max_upsample,
        crop=source.sampler.crop,
        normalisation=spec.normalisation,
        crop_foreground=spec.crop_foreground,
    )
    training = {"samples": recipe["samples"], **source.summary(), "recipe": dict(recipe)}
    bundle = BundleConfig(encoder.name, dict(encoder.arguments), encoder.in_channels, contract, training)
    save_bundle(path, encoder, bundle, pretraining=objective.pretraining_state())
