"""Finetune a pretrained bundle on a downstream task, beside the same model from scratch, on 1, 5, 20 … cases.

    python -m fomo_ssl.finetune bundle=PATH task=PATH run=PATH shots=1,5,20 seeds=3 [resume=auto]

task=PATH is a folder in the FOMO task layout, an nnU-Net raw dataset, or a CSV table; its kind (segmentation,
classification, regression) picks the recipe in conf/task.
"""

import glob
import re
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fomo_ssl.config import hydra_main
from fomo_ssl.core.errors import ConfigError, entry
from fomo_ssl.core.values import boolean, choice, integer, number, path, share, triple

if TYPE_CHECKING:
    from fomo_ssl.downstream.recipe import Recipe


@entry
def main(arguments: Sequence[str] | None = None) -> None:
    """The command line, with `shots=1,5,20` and `task=PATH` as people write them."""
    argv = list(sys.argv[1:] if arguments is None else arguments)
    _composed(argv if {"--help", "-h"} & set(argv) else overrides(argv))


def overrides(argv: Sequence[str]) -> list[str]:
    """A command line as Hydra wants it: commas would mean a sweep, and `task` is the group of recipes.

    `shots=1,5,20` becomes a list, and `task=PATH` the recipe of the task's kind plus `task_path=PATH`.

    Raises:
        TaskError: the task cannot be read.
        ConfigError: no task is given.
    """
    values = dict(word.split("=", 1) for word in argv if "=" in word)
    if "task" not in values:
        raise ConfigError("no value for task", way_out="Give task=PATH")
    from fomo_ssl.downstream.tasks import KINDS, find_kind

    path = values["task"].strip("'\"")
    kind = choice(values.get("kind") or find_kind(path), "kind", KINDS)
    words = [word for word in argv if not word.startswith("task=")]
    words = [re.sub(r"^shots=['\"]?(\d+(?:,\d+)*)['\"]?$", r"shots=[\1]", word) for word in words]
    words = [re.sub(r"^bundle=([^\[\]'\"]+,[^\[\]'\"]+)$", r"bundle=[\1]", word) for word in words]
    quoted = path.replace("\\", "\\\\").replace("'", "\\'")
    return [f"task={kind}", f"task_path='{quoted}'", *words]


def run_finetuning(config: Mapping[str, Any]) -> Path:
    """Finetune from plain values, as `conf/finetune.yaml` names them; returns the run directory."""
    from fomo_ssl.downstream.finetune import finetune
    from fomo_ssl.downstream.given_splits import given_splits
    from fomo_ssl.downstream.splits import cross_validation, few_shot_splits
    from fomo_ssl.downstream.tasks import load_task

    given = config["bundle"] if isinstance(config["bundle"], list) else [config["bundle"]]
    bundles = [None if one in (None, "none") else path(one, "bundle") for one in given]
    encoder = config.get("encoder") or {}
    if None in bundles and not encoder:
        raise ConfigError("bundle=none leaves the encoder open", way_out="Give encoder=NAME, such as encoder=resenc_t")
    sequences = _names(config["sequences"])
    task = load_task(config["task_path"], kind=config["kind"], sequences=sequences, missing=config["missing"])
    for note in task.notes:
        print(f"{task.name}: {note}", file=sys.stderr)
    seeds = integer(config["seeds"], "seeds")
    mode = choice(config["mode"], "mode", ("few_shot", "cv"))
    if config["splits"] is not None:
        splits = given_splits(path(config["splits"], "splits"), task)
    elif mode == "cv":
        if config["train_on"] is not None or config["test_on"] is not None:
            raise ConfigError("mode=cv tests every dataset", way_out="Leave out train_on and test_on, or mode=few_shot")
        splits = cross_validation(task, integer(config["folds"], "folds", 2), seeds)
    else:
        shots = config["shots"] if isinstance(config["shots"], list) else [config["shots"]]
        splits = few_shot_splits(
            task,
            [integer(number, "shots") for number in shots],
            seeds,
            n_test=None if config["n_test"] is None else integer(config["n_test"], "n_test"),
            n_validation=integer(config["n_validation"], "n_validation", 0),
            train_on=_names(config["train_on"]),
            test_on=_names(config["test_on"]),
        )
    run = path(config["run"] or f"runs/{time.strftime('%Y-%m-%d_%H-%M-%S')}_finetune_{task.name}", "run")
    resume = choice(config["resume"], "resume", ("auto", "never"))
    common: dict[str, Any] = {
        "task": task,
        "splits": splits,
        "recipe": build_recipe(config),
        "encoder": encoder.get("name"),
        "encoder_args": {key: value for key, value in encoder.items() if key != "name"},
        "resume": resume,
        "parallel": None if config["parallel"] is None else integer(config["parallel"], "parallel"),
        "threads": integer(config["threads"], "threads"),
        "grad_checkpointing": boolean(config["grad_checkpointing"], "grad_checkpointing"),
        "compiled": boolean(config["compile"], "compile"),
        "ensemble": boolean(config["ensemble"], "ensemble"),
    }
    scratch = boolean(config["scratch"], "scratch")
    if len(bundles) == 1:
        finetune(run=run, bundle=bundles[0], scratch=scratch, **common)
        return run
    twins: list[Any] = []
    for name, bundle in _names_of(bundles).items():
        # One twin serves all bundles of the same network and input.
        twin = _of_twin(bundle)
        finetune(run=run / name, bundle=bundle, scratch=scratch and twin not in twins, **common)
        twins.append(twin)
    return run


def _names_of(bundles: "Sequence[Path | None]") -> "dict[str, Path]":
    """A folder's name for each bundle: its own, or that of the run that it lies in.

    Raises:
        ConfigError: one of several is `none`, or one is named twice.
    """
    named: dict[str, Path] = {}
    for bundle in bundles:
        if bundle is None:
            raise ConfigError("bundle=none beside others", way_out="Leave it out: scratch=true runs the twin")
        parts = [part for part in bundle.resolve().parts if part != "bundle"]
        name = next("_".join(parts[-n:]) for n in range(1, len(parts) + 1) if "_".join(parts[-n:]) not in named)
        if bundle.resolve() in [other.resolve() for other in named.values()]:
            raise ConfigError(f"bundle={bundle} is named twice", way_out="Name each once")
        named[name] = bundle
    return named


def _of_twin(bundle: Path) -> Any:
    """What the from-scratch twin of a bundle depends on."""
    from fomo_ssl.bundle import load_config

    config = load_config(bundle)
    return config.encoder, config.encoder_args, config.input.spec


def build_recipe(config: Mapping[str, Any]) -> "Recipe":
    """The `Recipe` of a composed configuration.

    Raises:
        ConfigError: a value of the wrong kind.
    """
    from dataclasses import fields

    from fomo_ssl.downstream.models import AXES, FUSIONS
    from fomo_ssl.downstream.recipe import SCHEDULES, Recipe
    from fomo_ssl.heads.pooling import POOL_MAPS, POOLS

    switches = {name: _tuples(value) for name, value in config["augment"].items()}
    values = {f.name: _checked(config[f.name], f.name, f.type) for f in fields(Recipe) if f.name in config}
    values |= {
        "crop": None if config["crop"] is None else triple(config["crop"], "crop"),
        "augment": switches.pop("preset"),
        "switches": switches,
        "schedule": choice(config["schedule"], "schedule", SCHEDULES),
        "fusion": choice(config["fusion"], "fusion", FUSIONS),
        "inflation": choice(config["inflation"], "inflation", ("mean", "random")),
        "pool": choice(config["pool"], "pool", POOLS),
        "pool_maps": choice(config["pool_maps"], "pool_maps", POOL_MAPS),
        "mirror": tuple(choice(axis, "mirror", AXES) for axis in dict.fromkeys(_names(config["mirror"]) or ())),
    }
    return Recipe(**values)


def _names(value: Any) -> list[str] | None:
    """One name or several; None is all."""
    return value if value is None or isinstance(value, list) else [str(value)]


def _checked(value: Any, key: str, kind: Any) -> Any:
    """A value of the recipe as the number or the switch that it is; others are left alone."""
    if kind is int:
        return integer(value, key, 0 if key == "lora_rank" else 1)
    if key in ("warmup", "freeze", "hold_out"):
        return share(value, key)
    if kind is float or (key == "spacing" and value is not None):
        return number(value, key)
    return boolean(value, key) if kind is bool else value


def _tuples(switch: Any) -> Any:
    """A transform's values with ranges as tuples: YAML knows lists only."""
    if not isinstance(switch, Mapping):
        return switch
    return {name: tuple(value) if isinstance(value, list) else value for name, value in switch.items()}


def _finetune(config: dict[str, Any]) -> None:
    from fomo_ssl.core.device import uses_gpu
    from fomo_ssl.core.memory import keep_freed_memory

    if not uses_gpu():
        keep_freed_memory()
    run = run_finetuning(config)
    if not isinstance(config["bundle"], list) or len(config["bundle"]) == 1:
        print(f"results: {run}/summary.json")
        return
    from fomo_ssl.report.html import write_report
    from fomo_ssl.report.results_table import to_text
    from fomo_ssl.report.runs import find_runs

    print(to_text(write_report(find_runs([f"{glob.escape(str(run))}/*"]), run)))
    print(f"{run}/report.html")


_composed = hydra_main("finetune")(_finetune)

if __name__ == "__main__":
    main()
