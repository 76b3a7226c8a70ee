"""One pretraining run from a store to a bundle, in a run directory that can be continued after any kill."""

import contextlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fomo_ssl.bundle import BundleConfig, InputContract, bundle_digest, save_bundle
from fomo_ssl.core.errors import CollapseError, ConfigError
from fomo_ssl.core.seen import SeenData
from fomo_ssl.data.augment import Augmenter
from fomo_ssl.objectives.base import Objective
from fomo_ssl.training.checkpoint import samples_of
from fomo_ssl.training.fitting import fit
from fomo_ssl.training.initial import with_initial
from fomo_ssl.training.module import PretrainModule
from fomo_ssl.training.ranks import join_ranks
from fomo_ssl.training.reading import read_metrics
from fomo_ssl.training.record import Resume, circumstances, claim, digest, write_record
from fomo_ssl.training.settings import RunConfig as RunConfig
from fomo_ssl.training.sharding import check_sharding
from fomo_ssl.training.source import CropSource
from fomo_ssl.training.trainer import check_options, choose_precision
from fomo_ssl.training.unreadable import unreadable_files

# Data settings that do not change a result, or say where.
_NOT_DECISIVE = ("workers", "transport", "max_unreadable", "exclude")


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
    init: Path | None = None,
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
        init: the bundle that the weights of `objective` were taken from; its digest is part of the recipe.

    Raises:
        StoreError, ConfigError: the store or a setting cannot be used.
        RunError: the folder holds something else or another process works in it, no checkpoint opens, or the disk is
            full.
        NonFiniteLossError: names the scans of the batch.
        CollapseError: the alarm rang; a whole checkpoint is written before.
        KeyboardInterrupt, SystemExit: after SIGINT, and with 143 after SIGTERM; a whole checkpoint is written before.
    """
    options = check_options(config.trainer)
    ranks = join_ranks(options)
    if config.batch_size % (ranks.world * config.accumulate):
        devices = f" x {ranks.world} devices" if ranks.world > 1 else ""
        what = f"batch_size={config.batch_size} is no multiple of accumulate={config.accumulate}{devices}"
        raise ConfigError(what, way_out="Give a batch_size that is")
    precision = choose_precision(config.precision, str(options.get("accelerator", "auto")))
    check_sharding(options, precision, config.compile)
    source = CropSource.open(store, config.data, objective.views, config.crop, config.seed)
    full_recipe = _recipe(objective, config, precision, source, recipe or {"objective": type(objective).__name__})
    if init is not None:
        full_recipe["init"] = bundle_digest(init)
    module = PretrainModule(objective, augment, config.optim, config.steps, source.name_scans, config.accumulate, ranks)
    with contextlib.ExitStack() as held:
        found = ranks.on_first(lambda: held.enter_context(claim(run, full_recipe, resume)))
        if found is not None and found["status"] == "finished":
            return _result(run, found)
        return _train(store, run, module, source, config, precision, full_recipe, init)


def _train(
    store: Path,
    run: Path,
    module: PretrainModule,
    source: CropSource,
    config: RunConfig,
    precision: str,
    recipe: Mapping[str, Any],
    init: Path | None,
) -> PretrainResult:
    """Train, release and record, in a folder that is this run's."""
    objective, ranks = module.objective, module.ranks
    record: dict[str, Any] = {
        "status": "running",
        "n_parameters": sum(p.numel() for p in objective.encoder.parameters()),
        "store": str(store),
        "init": None if init is None else str(init.resolve()),
        **source.summary(),
        "recipe_digest": digest(recipe),
        "recipe": recipe,
        "health": asdict(config.health),
        "branched_from": _branch(config.start_from),
        "circumstances": circumstances(config.trainer.get("accelerator")) | {"ranks": ranks.world},
    }
    if ranks.first:
        write_record(run, record)
    try:
        pace = fit(run, module, source, config, precision)
    except CollapseError as error:
        collapsed = {"status": "collapsed", "reason": str(error), "samples": module.samples_seen}
        write_record(run, record | collapsed)
        raise

    def finish() -> dict[str, Any]:
        _release(run / "bundle", objective, source, recipe, with_initial(source.seen(), init))
        outcome = record | pace | _outcome(run, module.samples_seen)
        write_record(run, outcome)
        return outcome

    return _result(run, ranks.on_first(finish))


def _branch(state: Path | None) -> dict[str, Any] | None:
    return None if state is None else {"run": state.parents[1].name, "samples": samples_of(state)}


def _result(run: Path, record: Mapping[str, Any]) -> PretrainResult:
    numbers = {key: record[key] for key in ("samples", "samples_per_second", "loss_first", "loss_last", "n_parameters")}
    return PretrainResult(run=run, bundle=run / "bundle", **numbers)


def _outcome(run: Path, samples: int) -> dict[str, Any]:
    losses = [row["loss"] for row in read_metrics(run / "metrics.csv") if "loss" in row]
    tenth = max(1, len(losses) // 10)
    return {
        "status": "finished",
        "samples": samples,
        "unreadable_scans": len(unreadable_files(run)),
        "loss_first": sum(losses[:tenth]) / tenth,
        "loss_last": sum(losses[-tenth:]) / tenth,
    }


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
        "accumulate": config.accumulate,
        "samples": config.steps * config.batch_size,
        "seed": config.seed,
        "precision": precision,
        "compile": config.compile,
        "optim": asdict(config.optim),
        "data": {key: value for key, value in asdict(config.data).items() if key not in _NOT_DECISIVE},
        "excluded": digest({"rows": source.excluded.tolist()}),
        "data_fingerprint": source.store.fingerprint,
    }


def _release(path: Path, objective: Objective, source: CropSource, recipe: Mapping[str, Any], seen: SeenData) -> None:
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
    save_bundle(path, encoder, bundle, pretraining=objective.pretraining_state(), seen=seen)
