"""One unit of work: train on one split from one start, test, and write what the report reads."""

import csv
import io
import json
import shutil
import time
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import asdict, astuple, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from fomo_ssl.core.files import write_json, write_text
from fomo_ssl.core.seeding import sample_key
from fomo_ssl.core.types import Triple
from fomo_ssl.downstream import scores
from fomo_ssl.downstream.batches import BatchStream
from fomo_ssl.downstream.cases import Example, load_example
from fomo_ssl.downstream.inference import predict_mask, predict_scan
from fomo_ssl.downstream.labels import check_class
from fomo_ssl.downstream.metrics import METRICS, segmentation_metrics
from fomo_ssl.downstream.models import (
    TaskModel,
    TaskSpec,
    forked_generators,
    pretrained_encoder,
    save_model,
    scratch_encoder,
)
from fomo_ssl.downstream.module import CurvePoint, FinetuneModule
from fomo_ssl.downstream.pictures import write_pictures
from fomo_ssl.downstream.recipe import Recipe, Schedule
from fomo_ssl.downstream.splits import Split
from fomo_ssl.downstream.stopping import EarlyStopping, hold_out, validation_loss
from fomo_ssl.downstream.tasks import Task
from fomo_ssl.encoders import Encoder
from fomo_ssl.imaging.canonical import CanonicalSpec
from fomo_ssl.layers.lora import add_lora, merge_lora
from fomo_ssl.layers.recompute import set_grad_checkpointing
from fomo_ssl.training.compiling import as_compiled, compile_regions
from fomo_ssl.training.trainer import build_trainer, choose_precision, quiet

Init = Literal["pretrained", "scratch"]


@dataclass(frozen=True)
class Plan:
    """What all units of a run share.

    Attributes:
        bundle: of the pretrained arm; None where there is only the scratch arm.
        encoder, encoder_args: what `create_encoder` builds for the scratch arm.
        canonical: the canonical form of the cases.
        crop: voxels of the network's input.
        grad_checkpointing: recompute activations in the backward pass.
        compile: compile the network's blocks.
    """

    task: Task
    run: Path
    recipe: Recipe
    bundle: Path | None
    encoder: str
    encoder_args: Mapping[str, Any]
    canonical: CanonicalSpec
    crop: Triple
    grad_checkpointing: bool = False
    compile: bool = False

    def example(self, name: str, cache: MutableMapping[str, Example]) -> Example:
        """A case in memory, read at its first use.

        Raises:
            RejectedScan, TaskError: see `load_example`; also a mask with more classes than the task.
        """
        if name not in cache:
            case = self.task[name]
            example = load_example(case, self.task.sequences, self.canonical)
            if example.drawn_mask is not None:
                check_class(int(example.drawn_mask.max()), self.task.classes, Path(str(case.label)))
            cache[name] = example
        return cache[name]


@dataclass(frozen=True)
class Unit:
    """A split and a start."""

    split: Split
    init: Init

    @property
    def name(self) -> str:
        return f"{self.split.name}_{self.init}"


def run_unit(
    plan: Plan, unit: Unit, cache: MutableMapping[str, Example], on_step: Callable[[int], None] | None = None
) -> dict[str, Any]:
    """Train and test one unit and write `<run>/units/<unit>/`; `result.json` comes last and makes it count.

    Both arms of a split get the same crops, augmentation and head: they differ in the encoder's weights alone.
    `on_step` hears the number of every training step.
    """
    folder = plan.run / "units" / unit.name
    # What a killed process left of this unit is worth nothing, and holds half-written bundles.
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    if plan.recipe.early_stopping:
        unit = replace(unit, split=hold_out(plan.task, unit.split, plan.recipe.hold_out))
    train = [plan.example(name, cache) for name in unit.split.train]
    model = build_model(plan, unit, train)
    began = time.perf_counter()
    curve, best_step = fit(plan, unit, model, train, cache, on_step)
    trained = time.perf_counter()
    examples = [plan.example(name, cache) for name in unit.split.test]
    with as_compiled(model):
        predictions, masks = predict_examples(model, examples, plan.recipe.tolerance)
    tested = time.perf_counter()
    write_text(folder / "curve.csv", _curve_csv(curve))
    write_text(folder / "predictions.csv", scores.to_csv(predictions))
    pictures = write_pictures(folder, predictions, examples, masks)
    result = {
        "unit": unit.name,
        "task": plan.task.name,
        "kind": plan.task.kind,
        "init": unit.init,
        **{key: getattr(unit.split, key) for key in ("shots", "seed", "fold", "train", "validation")},
        "n_train": len(unit.split.train),
        "n_test": len(unit.split.test),
        "encoder": model.encoder.name,
        "parameters": sum(p.numel() for p in model.parameters()),
        "steps": plan.recipe.steps,
        "steps_taken": len(curve),
        "best_step": best_step,
        "batch_size": plan.recipe.batch_size,
        "crop": list(plan.crop),
        "seconds_training": round(trained - began, 3),
        "seconds_per_step": round((trained - began) / len(curve), 5),
        "seconds_testing": round(tested - trained, 3),
        "final_loss": float(np.mean([point.loss for point in curve[-20:]])),
        "metrics": {name: asdict(value) for name, value in scores.intervals([predictions]).items()},
        "groups": {
            group: {name: asdict(value) for name, value in values.items()}
            for group, values in scores.by_dataset([predictions]).items()
        },
        "pictures": pictures,
    }
    save_model(folder / "bundle", model, {k: result[k] for k in ("task", "init", "shots", "seed", "fold", "steps")})
    write_json(folder / "result.json", result)
    return result


def read_result(folder: Path) -> dict[str, Any] | None:
    """A finished unit's `result.json`; None where the unit is not finished."""
    file = folder / "result.json"
    if not file.is_file():
        return None
    result: dict[str, Any] = json.loads(file.read_text())
    return result


def build_model(plan: Plan, unit: Unit, train: Sequence[Example]) -> TaskModel:
    """The unit's model before training."""
    task, recipe, seed = plan.task, plan.recipe, unit.split.seed
    encoder: Encoder
    if unit.init == "pretrained":
        assert plan.bundle is not None
        encoder = pretrained_encoder(plan.bundle, len(task.sequences), recipe.fusion, recipe.inflation, seed=seed)
    else:
        encoder = scratch_encoder(plan.encoder, plan.encoder_args, len(task.sequences), recipe.fusion, seed=seed)
    values = np.array([example.value for example in train])
    regression = task.kind == "regression"
    spec = TaskSpec(
        name=task.name,
        kind=task.kind,
        sequences=task.sequences,
        classes=task.classes,
        crop=plan.crop,
        spacing=plan.canonical.spacing,
        max_upsample=plan.canonical.max_upsample,
        crop_foreground=plan.canonical.crop_foreground,
        normalisation=plan.canonical.normalisation,
        target_mean=float(values.mean()) if regression else 0.0,
        # One case, or equal targets, have no spread but rounding; 1 keeps the unit of the label.
        target_std=float(values.std()) if regression and np.ptp(values) > 0 else 1.0,
        missing=task.missing,
        pool=recipe.pool,
        pool_maps=recipe.pool_maps,
        pool_share=recipe.pool_share,
        mirror=recipe.mirror,
    )
    return TaskModel(encoder, spec, seed=seed).train()


def recipe_of(recipe: Recipe, init: Init) -> Recipe:
    """The recipe of an arm: random weights are spared neither by a small rate nor by standing still.

    Protecting what was pretrained is part of the pretrained arm; the same protection would cripple its twin. A probe
    is about frozen features, so the twin's are frozen too.
    """
    if init == "pretrained":
        return recipe
    schedule: Schedule = "probe" if recipe.schedule == "probe" else "full"
    return replace(recipe, encoder_lr_scale=1.0, schedule=schedule, layer_decay=1.0, lora_rank=0)


def fit(
    plan: Plan,
    unit: Unit,
    model: TaskModel,
    train: Sequence[Example],
    cache: MutableMapping[str, Example],
    on_step: Callable[[int], None] | None = None,
) -> tuple[list[CurvePoint], int]:
    """Train `model` in place; returns the learning curve and the step whose weights were kept."""
    recipe, seed = recipe_of(plan.recipe, unit.init), unit.split.seed
    stream = BatchStream(train, plan.crop, recipe.batch_size, recipe.steps, recipe.foreground, seed)
    validation = [plan.example(name, cache) for name in unit.split.validation]

    def validate(current: TaskModel) -> tuple[float, float]:
        with as_compiled(current):
            scored = predict_examples(current, validation, recipe.tolerance)[0]
        return scored.metric(METRICS[plan.task.kind][0]), validation_loss(scored, model.spec.target_std)

    stopping = EarlyStopping(recipe.patience) if recipe.early_stopping else None
    if recipe.lora_rank:
        start = torch.Generator().manual_seed(sample_key(seed, 0, "lora"))
        add_lora(model.encoder, recipe.lora_rank, recipe.lora_alpha, start)
    set_grad_checkpointing(model, plan.grad_checkpointing)
    if plan.compile:
        torch.compiler.reset()  # the graphs of units before would count against the number that one block may have
        compile_regions(model)
    module = FinetuneModule(model, recipe, validate if validation else None, stopping, on_step)
    with quiet(), forked_generators():
        # Drop-path and dropout draw from the global generator.
        torch.manual_seed(seed)
        trainer = build_trainer(
            plan.run,
            steps=recipe.steps,
            precision=choose_precision(recipe.precision, "auto"),
            loggers=[],
            callbacks=[],
            options={"accelerator": "auto", "gradient_clip_val": recipe.clip},
        )
        try:
            trainer.fit(module, stream)
        except SystemExit as error:
            # Lightning turns an interrupt into exit code 1.
            raise KeyboardInterrupt if isinstance(error.__context__, KeyboardInterrupt) else error from None
    merge_lora(model.encoder)
    # Lightning leaves the model on the CPU.
    model.to("cuda" if torch.cuda.is_available() else "cpu").eval()
    return module.curve, stopping.best_step if stopping else len(module.curve)


def predict_examples(
    model: TaskModel, examples: Sequence[Example], tolerance: float
) -> tuple[scores.Predictions, dict[str, np.ndarray]]:
    """Predict every example; the table of results and, for segmentation, the masks by case on the files' grids."""
    rows: list[dict[str, float]] = []
    masks: dict[str, np.ndarray] = {}
    spec = model.spec
    for example in examples:
        if example.drawn_mask is not None:
            masks[example.case.name] = predict_mask(model, example.prepared)
            grid = example.prepared.grid.spacing
            rows.append(
                segmentation_metrics(masks[example.case.name], example.drawn_mask, spec.classes, grid, tolerance)
            )
        else:
            rows.append(_number_row(spec, predict_scan(model, example.prepared), example.value))
    cases = [example.case for example in examples]
    columns = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    ids = (tuple(c.name for c in cases), tuple(c.subject for c in cases), tuple(c.dataset for c in cases))
    return scores.Predictions(spec.kind, *ids, columns), masks


def _number_row(spec: TaskSpec, outputs: np.ndarray, target: float) -> dict[str, float]:
    if spec.kind == "regression":
        return {"target": target, "prediction": float(outputs[0])}
    if spec.classes == 2:
        return {"target": target, "prediction": float(outputs[1])}
    probabilities = {f"probability_{label}": float(p) for label, p in enumerate(outputs)}
    return {"target": target, "prediction": float(outputs.argmax()), **probabilities}


def _curve_csv(curve: Sequence[CurvePoint]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([field.name for field in fields(CurvePoint)])
    writer.writerows(astuple(point) for point in curve)
    return out.getvalue()
