"""Pretrain an encoder on a store and write a bundle.

python -m fomo_ssl.pretrain store=PATH run=PATH encoder=vit_s_p8 objective=mae budget.samples=1e6
python -m fomo_ssl.pretrain store=PATH run=PATH --multirun +sweep=size_x_length
"""

import functools
import json
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from fomo_ssl.config import hydra_main
from fomo_ssl.core.errors import CollapseError, ConfigError
from fomo_ssl.core.values import boolean, choice, integer, number, path, share, triple

if TYPE_CHECKING:
    from fomo_ssl.data.augment import Augmenter
    from fomo_ssl.objectives.base import Objective
    from fomo_ssl.training.callbacks.health import HealthConfig
    from fomo_ssl.training.optim import OptimConfig
    from fomo_ssl.training.ranks import Ranks
    from fomo_ssl.training.run import PretrainResult, RunConfig
    from fomo_ssl.training.source import DataConfig

_T = TypeVar("_T")


def summarise(sweep: Path) -> None:
    """The table at the end of a sweep, by the first of several processes."""
    from fomo_ssl.training.ranks import cluster_environment
    from fomo_ssl.training.sweep import write_table

    if cluster_environment().global_rank() == 0:
        write_table(sweep)


@hydra_main("pretrain", after_sweep=summarise)
def main(config: dict[str, Any]) -> None:
    """Run one pretraining from composed values."""
    from fomo_ssl.corpus.store import Store

    store = path(config["store"], "store")
    Store.open(store)  # a wrong path is an error at once, before Lightning's slow import
    from fomo_ssl.core.device import uses_gpu
    from fomo_ssl.core.memory import keep_freed_memory
    from fomo_ssl.report.training_page import write_training_report
    from fomo_ssl.training.initial import describe_initial
    from fomo_ssl.training.lengths import pretrain_lengths
    from fomo_ssl.training.ranks import join_ranks
    from fomo_ssl.training.run import pretrain

    resume: Any = choice(config["resume"], "resume", ("auto", "never"))
    automatic = config["batch_size"] == "auto"
    on_gpu = uses_gpu(config["trainer"].get("accelerator"))
    if not on_gpu:
        keep_freed_memory()
    run_config = build_run_config(config | {"batch_size": 1} if automatic else config)
    ranks = join_ranks(run_config.trainer)
    run = ranks.on_first(lambda: path(config["run"] or default_run(config), "run"))
    if automatic:
        run_config = replace(run_config, batch_size=choose_batch_size(config, run, run_config, ranks))
    lengths = build_lengths(config["budget"])
    recipe = {"objective": config["objective"], "augment": config["augment"]}
    init = None if config["init"] is None else path(config["init"], "init")
    if init is not None and ranks.first:
        print(describe_initial(init, config["objective"], Store.open(store).spec), file=sys.stderr)
    common: dict[str, Any] = {"store": store, "resume": resume, "recipe": recipe, "init": init}
    try:
        if lengths is None:
            objective, augment = build_objective(config, run_config.seed)
            results = [pretrain(run=run, objective=objective, augment=augment, config=run_config, **common)]
        else:
            build = functools.partial(build_objective, config, run_config.seed)
            results = pretrain_lengths(lengths, run=run, build=build, config=run_config, **common)
    except CollapseError:
        # Only the first of several processes looks at the run's health.
        for record in (*run.glob("run.json"), *run.glob("samples_*/run.json")):
            write_training_report(record.parent)
        raise
    if not ranks.first:
        return
    for result in results:
        write_training_report(result.run)
        print(describe(result))
        if config["probe"]["enabled"]:
            probe(result, config["probe"]["task"], store, "cuda" if on_gpu else "cpu")
    if lengths is not None:
        summarise(run)


def default_run(config: Mapping[str, Any]) -> str:
    """runs/<time>_<objective>_<encoder>."""
    return f"runs/{time.strftime('%Y-%m-%d_%H-%M-%S')}_{config['objective']['name']}_{config['encoder']['name']}"


def build_objective(config: Mapping[str, Any], seed: int) -> "tuple[Objective, Augmenter]":
    """The objective around its encoder, with seeded weights or those of `init`, and the augmentation.

    Raises:
        BundleError: `init` is no bundle.
        ConfigError: one of them refuses its settings, or `init` holds another encoder.
    """
    from fomo_ssl.data.augment import Augmenter
    from fomo_ssl.encoders import create_encoder
    from fomo_ssl.objectives import create_objective
    from fomo_ssl.training.checkpoint import seed_everything
    from fomo_ssl.training.initial import initial_encoder, initial_state

    init = None if config["init"] is None else path(config["init"], "init")
    seed_everything(seed)
    encoder_args, objective_args = dict(config["encoder"]), dict(config["objective"])
    encoder = _built("encoder", create_encoder, encoder_args.pop("name"), **encoder_args)
    if init is not None:
        encoder = initial_encoder(init, encoder)
    objective = _built("objective", create_objective, objective_args.pop("name"), encoder, **objective_args)
    if init is not None and (state := initial_state(init, config["objective"])) is not None:
        objective.load_pretraining_state(state)
    return objective, _built("augment", Augmenter, spec=objective.views, **config["augment"])


def choose_batch_size(config: Mapping[str, Any], run: Path, run_config: "RunConfig", ranks: "Ranks") -> int:
    """What `batch_size=auto` stands for: the number that the run in `run` began with, else the largest that fits.

    Raises:
        ConfigError: there is no GPU, or it holds too little.
    """
    from fomo_ssl.training.batch_size import find_batch_size, recorded_batch_size

    known = ranks.on_first(lambda: recorded_batch_size(run))
    if known is not None:
        return known
    build = functools.partial(build_objective, config, run_config.seed)
    found = find_batch_size(build, Path(config["store"]), run, run_config, ranks)
    if ranks.first:
        print(f"batch_size=auto: {found} samples a step", file=sys.stderr)
    return found


def _built(group: str, builder: Callable[..., _T], *args: Any, **kwargs: Any) -> _T:
    try:
        return builder(*args, **kwargs)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{group} refuses its settings: {error}", way_out=f"See conf/{group}") from error


def build_run_config(config: Mapping[str, Any]) -> "RunConfig":
    """Composed values as checked, typed ones.

    Raises:
        ConfigError: a value of the wrong kind.
    """
    from fomo_ssl.training.run import RunConfig

    logger = dict(config["logger"])
    return RunConfig(
        samples=integer(config["budget"]["samples"], "budget.samples"),
        batch_size=integer(config["batch_size"], "batch_size"),
        accumulate=integer(config["accumulate"], "accumulate"),
        crop=triple(config["crop"], "crop"),
        seed=integer(config["seed"], "seed", 0),
        optim=build_optim(config["optim"]),
        data=build_data(config["data"]),
        precision=str(config["precision"]),
        compile=boolean(config["compile"], "compile"),
        grad_checkpointing=boolean(config["grad_checkpointing"], "grad_checkpointing"),
        checkpoint_every=integer(config["checkpoint_every"], "checkpoint_every"),
        preview_every=integer(config["preview_every"], "preview_every"),
        log_every=integer(config["log_every"], "log_every"),
        profile=boolean(config["profile"], "profile"),
        health=build_health(config["health"]),
        trainer=dict(config["trainer"]),
        wandb=logger if logger.pop("name") == "wandb" else None,
    )


def build_lengths(budget: Mapping[str, Any]) -> list[int] | None:
    """Several lengths in place of one.

    Raises:
        ConfigError: neither null nor a list of whole numbers.
    """
    lengths = budget["lengths"]
    if lengths is None:
        return None
    if not isinstance(lengths, list | tuple) or not lengths:
        raise ConfigError(f"budget.lengths={lengths} is no list", way_out="Give budget.lengths=[1e4,1e5]")
    return [integer(length, "budget.lengths") for length in lengths]


def build_optim(values: Mapping[str, Any]) -> "OptimConfig":
    """The group `optim`."""
    from fomo_ssl.training.optim import OptimConfig

    betas = values["betas"]
    if not isinstance(betas, list | tuple) or len(betas) != 2:
        raise ConfigError(f"optim.betas={betas} are not two numbers", way_out="Give optim.betas=[0.9,0.95]")
    first, second = (number(beta, "optim.betas") for beta in betas)
    if max(first, second) >= 1.0:
        raise ConfigError(f"optim.betas={betas} are not below 1", way_out="Give optim.betas=[0.9,0.95]")
    named = {name: number(values[name], f"optim.{name}") for name in values if name not in ("betas", "schedule")}
    named |= {name: share(values[name], f"optim.{name}") for name in ("warmup", "tail") if name in values}
    schedule: Any = choice(values["schedule"], "optim.schedule", ("cosine", "constant"))
    return OptimConfig(betas=(first, second), schedule=schedule, **named)


def build_data(values: Mapping[str, Any]) -> "DataConfig":
    """The group `data`."""
    from fomo_ssl.training.source import DataConfig

    sequences = values["sequences"]
    if sequences is not None and not isinstance(sequences, list | tuple):
        raise ConfigError(f"data.sequences={sequences} is no list", way_out=f"Give data.sequences=[{sequences}]")
    held_out = values["held_out"]
    transport: Any = choice(values["transport"], "data.transport", ("auto", "ring", "queue", "spawn"))
    return DataConfig(
        held_out=held_out if type(held_out) is int else number(held_out, "data.held_out"),
        sequences=None if sequences is None else tuple(sequences),
        dataset_weights=_weights(values, "dataset_weights"),
        sequence_weights=_weights(values, "sequence_weights"),
        exclude=None if values["exclude"] is None else path(values["exclude"], "data.exclude"),
        crops_per_scan=integer(values["crops_per_scan"], "data.crops_per_scan"),
        workers=integer(values["workers"], "data.workers", 0),
        transport=transport,
        max_unreadable=integer(values["max_unreadable"], "data.max_unreadable", 0),
    )


def build_health(values: Mapping[str, Any]) -> "HealthConfig":
    """The section `health`."""
    from fomo_ssl.training.callbacks.health import HealthConfig

    alarm: Any = choice(values["alarm"], "health.alarm", ("stop", "warn", "off"))
    return HealthConfig(
        enabled=boolean(values["enabled"], "health.enabled"),
        every=integer(values["every"], "health.every"),
        crops=integer(values["crops"], "health.crops"),
        pictures=integer(values["pictures"], "health.pictures", 0),
        alarm=alarm,
        warmup=share(values["warmup"], "health.warmup"),
        looks=integer(values["looks"], "health.looks"),
        min_spread=number(values["min_spread"], "health.min_spread"),
        min_rankme=number(values["min_rankme"], "health.min_rankme"),
    )


def _weights(values: Mapping[str, Any], key: str) -> dict[str, float]:
    weights = values[key]
    if not isinstance(weights, Mapping):
        raise ConfigError(f"data.{key}={weights} names nothing to weight", way_out=f"Give +data.{key}.NAME=2")
    return {name: number(weight, f"data.{key}.{name}") for name, weight in weights.items()}


def describe(result: "PretrainResult") -> str:
    """One line for the terminal."""
    return (
        f"{result.samples:,} samples at {result.samples_per_second:.1f}/s, "
        f"loss {result.loss_first:.4f} -> {result.loss_last:.4f}; bundle: {result.bundle}"
    )


def probe(result: "PretrainResult", task: str | None, store: Path, device: str = "cpu") -> None:
    """Measure the frozen embedding where it was trained and write `probe.json` into the run, unless it is there."""
    from dataclasses import asdict

    from fomo_ssl.core.files import write_json
    from fomo_ssl.downstream.probe import probe_bundle

    file = result.run / "probe.json"
    found = json.loads(file.read_text()) if file.is_file() else {}
    # The bundle of a finished run does not change; a sweep that is continued comes by here again.
    if "task" not in found or found["task"] != task:
        found = asdict(probe_bundle(result.bundle, None if task is None else Path(task), store, device))
        found["task"] = task
        write_json(file, found)
    print(f"frozen embedding: {found['metric']} {found['value']:.3f} ({found['low']:.3f} to {found['high']:.3f})")


if __name__ == "__main__":
    main()
