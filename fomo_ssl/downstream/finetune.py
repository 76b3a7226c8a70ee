"""Finetuning over shots, seeds and starts: the pretrained encoder beside its from-scratch twin on the same splits."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from fomo_ssl.bundle import bundle_digest, load_config
from fomo_ssl.core.errors import RunError
from fomo_ssl.core.files import write_json
from fomo_ssl.core.types import Triple
from fomo_ssl.downstream.checks import case_digests, check_masks, check_unchanged, file_digests, some
from fomo_ssl.downstream.ensembles import find_ensembles, is_tested
from fomo_ssl.downstream.metrics import METRICS
from fomo_ssl.downstream.recipe import Recipe
from fomo_ssl.downstream.running import run_units
from fomo_ssl.downstream.seen import find_seen, to_line
from fomo_ssl.downstream.splits import Split, extend_splits, used_cases
from fomo_ssl.downstream.stopping import hold_out
from fomo_ssl.downstream.summary import Row, summarise, to_json, to_table
from fomo_ssl.downstream.tasks import Task
from fomo_ssl.downstream.unit import Plan, Unit, read_result
from fomo_ssl.encoders import create_encoder
from fomo_ssl.imaging.canonical import CanonicalSpec
from fomo_ssl.training.record import Resume, circumstances, claim, digest, write_record


def finetune(
    *,
    task: Task,
    splits: Sequence[Split],
    run: Path,
    recipe: Recipe,
    bundle: Path | None,
    encoder: str | None = None,
    encoder_args: Mapping[str, Any] | None = None,
    scratch: bool = True,
    resume: Resume = "never",
    parallel: int | None = None,
    threads: int = 1,
    grad_checkpointing: bool = False,
    compiled: bool = False,
    ensemble: bool = False,
) -> list[Row]:
    """Run every unit and write `run/units/…`, `splits.json`, `summary.json` and `run.json`.

    Args:
        task, splits: what is learned and who is trained and tested on.
        run: run directory.
        recipe: values of the training.
        bundle: pretrained encoder; None runs the scratch arm alone, with `encoder`.
        encoder, encoder_args: of the scratch arm where there is no bundle.
        scratch: whether the from-scratch twin is run too.
        resume: `auto` skips units that are finished; `never` wants an empty folder.
        parallel: processes; None takes one a core on a CPU and one on a GPU. Two units on a core each are faster than
            one on two cores, and the results are the same.
        threads: CPU threads of a unit; more than 1 changes results in the last bits.
        grad_checkpointing: recompute activations in the backward pass: less memory, slower steps, the same result.
        compiled: compile the network's blocks: slow first steps of every unit, then faster ones on a GPU.
        ensemble: test the seeds of a segmentation together too, as `predict` averages them; other kinds need no test.

    Raises:
        BundleError, RejectedScan, TaskError: input that cannot be used.
        ConfigError: `compiled` of a network that has no block to compile.
        RunError: the folder holds another run, or one of a bundle that was replaced since, or a process died.
        KeyboardInterrupt, SystemExit: after SIGINT, and with 143 after SIGTERM; finished units stay.
    """
    for split in splits if recipe.early_stopping else ():
        hold_out(task, split, recipe.hold_out)  # says before anything is trained that there are too few
    plan = _plan(task, run, recipe, bundle, encoder, encoder_args or {})
    plan = replace(plan, grad_checkpointing=grad_checkpointing, compile=compiled)
    inits = [*(["pretrained"] if bundle else []), *(["scratch"] if scratch or not bundle else [])]
    units = [Unit(split, init) for split in splits for init in inits]  # type: ignore[arg-type]
    description = _describe(plan, splits)
    weights = None if bundle is None else bundle_digest(bundle)
    cases = used_cases(task, splits)
    empty = check_masks(cases)
    if empty:
        print(f"{task.name}: {len(empty)} of {len(cases)} masks are empty: {some(empty)}", file=sys.stderr)
    files = file_digests(cases)
    digests = case_digests(cases, files)
    seen = None if bundle is None else find_seen(cases, files, bundle)
    if seen and seen.cases:
        print(to_line(task.name, splits, seen), file=sys.stderr)
    with claim(run, description, resume) as found:
        before = found or {}
        if before.get("bundle_digest", weights) != weights:
            what = "the bundle has other weights than when the run began"
            raise RunError(what, where=bundle, way_out="Give the bundle of then, or another run=")
        known: Mapping[str, str] = before.get("cases", {})
        check_unchanged(known, digests, run)
        record: dict[str, Any] = {
            "status": "running",
            "kind": "finetune",
            "inits": sorted({*inits, *before.get("inits", ())}),  # the other arm may be asked for later
            "task_path": None if task.root is None else str(task.root.resolve()),
            "recipe": description,
            "bundle_digest": weights,
            "data_fingerprint": digest({**known, **digests}),
            "cases": {**known, **digests},
            "trained_on": sorted({*before.get("trained_on", ()), *_trained_on(task, splits)}),
            "empty_masks": sorted({*before.get("empty_masks", ()), *empty}),
            "seen_in_pretraining": None if seen is None else asdict(seen.beside(before.get("seen_in_pretraining"))),
            "circumstances": circumstances(),
        }
        write_record(run, record)
        extend_splits(run / "splits.json", splits)
        done = [unit for unit in units if read_result(run / "units" / unit.name) is not None]
        waiting = [unit for unit in units if unit not in done]
        if waiting:
            run_units(plan, waiting, len(done), parallel, threads, _line)
        together = find_ensembles(units) if ensemble and task.kind == "segmentation" else []
        untested = [one for one in together if not is_tested(plan, one)]
        if untested:
            run_units(plan, untested, len(together) - len(untested), parallel, threads, _line)
        rows = summarise(run)
        write_json(run / "summary.json", to_json(rows))
        write_record(run, record | {"status": "finished"})
    # A log file has no width of its own; the 80 columns that rich takes would break the numbers.
    Console(width=None if sys.stdout.isatty() else 130).print(to_table(rows))
    return rows


def _plan(
    task: Task, run: Path, recipe: Recipe, bundle: Path | None, encoder: str | None, encoder_args: Mapping[str, Any]
) -> Plan:
    if bundle is not None:
        config = load_config(bundle)
        encoder, encoder_args = config.encoder, config.encoder_args
        made = config.input.spec
    else:
        made = CanonicalSpec()
    if encoder is None:
        raise RunError("neither a bundle nor an encoder is given", way_out="Give bundle=PATH, or encoder=NAME")
    spacing = recipe.spacing if recipe.spacing is not None else made.spacing
    canonical = replace(made, spacing=spacing, crop_foreground=recipe.crop_foreground)
    stride = create_encoder(encoder, **encoder_args).feature_info[-1].stride
    crop = recipe.crop or largest_crop(task, canonical, stride, recipe.max_crop)
    return Plan(task, run, recipe, bundle, encoder, dict(encoder_args), canonical, crop)


def largest_crop(task: Task, canonical: CanonicalSpec, stride: Triple, limit: int) -> Triple:
    """The box that holds every case of the task, in whole strides and at most `limit` voxels an axis, or one stride."""
    from fomo_ssl.downstream.cases import prepare

    shapes = [prepare(case.images, task.sequences, canonical).image.shape[1:] for case in task.cases]
    largest = [max(shape[axis] for shape in shapes) for axis in range(3)]
    x, y, z = (min(-(-size // step), max(1, limit // step)) * step for size, step in zip(largest, stride, strict=True))
    return x, y, z


def _describe(plan: Plan, splits: Sequence[Split]) -> dict[str, Any]:
    """All that decides the results, as plain values."""
    return {
        "task": plan.task.name,
        "task_kind": plan.task.kind,
        "sequences": list(plan.task.sequences),
        "missing": plan.task.missing,
        "bundle": None if plan.bundle is None else str(plan.bundle.resolve()),
        "encoder": {"name": plan.encoder, **plan.encoder_args},
        "canonical": asdict(plan.canonical),
        "crop": list(plan.crop),
        "training": asdict(plan.recipe),
        "test": sorted({name for split in splits for name in split.test}),
        "notes": list(plan.task.notes),
        **({"compile": True} if plan.compile else {}),  # runs from before do not say
    }


def _trained_on(task: Task, splits: Sequence[Split]) -> set[str]:
    """Datasets of the training cases; those without a name are left out."""
    return {task[name].dataset for split in splits for name in split.train} - {""}


def _line(result: Mapping[str, Any]) -> str:
    leading = METRICS[result["kind"]][0]
    found = f"{result['unit']}: {leading} {result['metrics'][leading]['value']:.3f} on {result['n_test']} cases"
    return f"{found}, {result['seconds_per_step']:.2f} s/step" if "seconds_per_step" in result else found
