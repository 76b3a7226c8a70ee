"""Prediction of one session, the same after training, in evaluation and from a released bundle; no Lightning.

The rule of the input, which holds for training crops too: a volume is put into a box of the model's crop size, centred,
with the intensity of empty space around it. Segmentation slides that box over a volume that is larger (half a box a
step, Gaussian weights); classification and regression see the central box only. Both may average over mirrored scans.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from fomo_ssl.core.errors import BundleError
from fomo_ssl.core.types import Triple
from fomo_ssl.downstream.cases import Prepared, centre_origin, prepare, window
from fomo_ssl.downstream.models import AXES, TaskModel, load_model
from fomo_ssl.downstream.tasks import choose_sequence
from fomo_ssl.imaging.canonical import CanonicalSpec, from_canonical
from fomo_ssl.imaging.nifti import Volume

OVERLAP = 0.5


def predict_case(bundle: Path | Sequence[Path], images: Mapping[str, Path]) -> np.ndarray | float:
    """Predict one session with a finetuned bundle, or with several of one task whose outputs are averaged.

    Args:
        bundle: folder of a finetuned bundle, or several.
        images: path by sequence name.

    Returns:
        Segmentation: a uint8 mask on the grid of the first sequence's file. Classification: the probability of class 1;
        with three and more classes the most likely class. Regression: the value.

    Raises:
        BundleError, RejectedScan, TaskError: see `load_model` and `prepare`.
    """
    models = load_models([bundle] if isinstance(bundle, str | Path) else bundle)
    spec = models[0].spec
    found = {entry: choose_sequence(entry, images) for entry in spec.sequences}
    outputs = predict_session(models, {entry: path for entry, path in found.items() if path is not None})[0]
    if spec.kind == "segmentation":
        return outputs
    if spec.kind == "regression":
        return float(outputs[0])
    return float(outputs[1]) if len(outputs) == 2 else float(outputs.argmax())


def load_models(bundles: Sequence[Path]) -> list[TaskModel]:
    """The models of an ensemble; they may differ in encoder, spacing and crop.

    Raises:
        BundleError: see `load_model`; also where they were not finetuned on the same kind, sequences and classes.
    """
    models = [load_model(Path(bundle)) for bundle in bundles]
    for bundle, model in zip(bundles, models, strict=True):
        for key in ("kind", "sequences", "classes"):
            own, first = getattr(model.spec, key), getattr(models[0].spec, key)
            if own != first:
                what = f"its {key} is {own}, that of {Path(bundles[0]).name} is {first}"
                raise BundleError(what, where=bundle, way_out="Give bundles of one task")
    return models


def predict_session(models: Sequence[TaskModel], files: Mapping[str, Path]) -> tuple[np.ndarray, Volume]:
    """Read a session as each model wants it, and average what they say.

    Args:
        models: of one task, see `load_models`.
        files: path by entry of the models' sequences.

    Returns:
        A mask as `predict_mask` gives it, or numbers as `predict_scan` does; and the grid of the first file.

    Raises:
        RejectedScan, TaskError: see `prepare`.
    """
    views = session_views(models, files)
    if models[0].spec.kind == "segmentation":
        return predict_mask(models, views), views[0].grid
    numbers = [predict_scan(model, view) for model, view in zip(models, views, strict=True)]
    return np.mean(numbers, axis=0), views[0].grid


def predict_mask(models: TaskModel | Sequence[TaskModel], prepared: Prepared | Sequence[Prepared]) -> np.ndarray:
    """The most likely class of every voxel, uint8, on the grid of the session's first file.

    Several models, each with the session as it wants it, are averaged on the file's grid.
    """
    members = [models] if isinstance(models, TaskModel) else models
    views = [prepared] if isinstance(prepared, Prepared) else prepared
    return likeliest_classes(class_probabilities(members, views), views)


@torch.inference_mode()
def class_probabilities(models: Sequence[TaskModel], views: Sequence[Prepared]) -> list[Float[np.ndarray, "k _ _ _"]]:
    """What each model gives every voxel of the session as it wants it, float32: all the cost of a segmentation."""
    pairs = zip(models, views, strict=True)
    return [_dense_logits(model, view).float().softmax(dim=0).cpu().numpy() for model, view in pairs]


def likeliest_classes(
    probabilities: Sequence[Float[np.ndarray, "k _ _ _"]], views: Sequence[Prepared]
) -> UInt8[np.ndarray, "x y z"]:
    """The class with the largest mean over models, on the grid of the session's first file.

    Probabilities and not classes are interpolated between the grids: borders stay smooth. What the foreground box cut
    away is background.
    """
    shape = views[0].grid.data.shape
    best, mask = np.full(shape, -1.0, np.float32), np.zeros(shape, np.uint8)
    for label in range(len(probabilities[0])):
        fill = 1.0 if label == 0 else 0.0
        on_grid = np.zeros(shape, np.float32)
        for planes, view in zip(probabilities, views, strict=True):
            on_grid += from_canonical(planes[label], view.affine, view.grid, "linear", fill)
        mask[on_grid > best] = label
        np.maximum(best, on_grid, out=best)
    return mask


def least_background(probabilities: Sequence[Float[np.ndarray, "k _ _ _"]], views: Sequence[Prepared]) -> Triple:
    """The voxel, on the grid of the session's first file, that the models hold least for background."""
    foreground = np.zeros(views[0].grid.data.shape, np.float32)
    for planes, view in zip(probabilities, views, strict=True):
        foreground += from_canonical(1.0 - planes[0], view.affine, view.grid, "linear", -1.0)
    x, y, z = (int(i) for i in np.unravel_index(foreground.argmax(), foreground.shape))
    return x, y, z


@torch.inference_mode()
def predict_scan(model: TaskModel, prepared: Prepared) -> np.ndarray:
    """Probabilities of the classes, or the value of a regression in the unit of its label; float64 (k,)."""
    outputs = _forward(model, _batch_of_one(model, prepared, model.spec.crop)).double().cpu()[0]
    if model.spec.kind == "classification":
        return outputs.softmax(dim=0).numpy()
    return outputs.numpy() * model.spec.target_std + model.spec.target_mean


def session_views(models: Sequence[TaskModel], files: Mapping[str, Path]) -> list[Prepared]:
    """The session as each model wants it, read once for each form.

    Raises:
        RejectedScan, TaskError: see `prepare`.
    """
    prepared: dict[CanonicalSpec, Prepared] = {}
    for model in models:
        spec = model.spec.canonical
        if spec not in prepared:
            prepared[spec] = prepare(files, model.spec.sequences, spec)
    return [prepared[model.spec.canonical] for model in models]


def _dense_logits(model: TaskModel, prepared: Prepared) -> Float[Tensor, "k x y z"]:
    shape, crop = prepared.image.shape[1:], model.spec.crop
    x, y, z = (max(n, c) for n, c in zip(shape, crop, strict=True))
    padded = _batch_of_one(model, prepared, (x, y, z))
    if (x, y, z) == crop:
        logits = _forward(model, padded)
    else:
        from monai.inferers import sliding_window_inference

        forward = partial(_forward, model)
        logits = sliding_window_inference(padded, crop, 1, forward, overlap=OVERLAP, mode="gaussian")
    start = [-o for o in centre_origin(shape, (x, y, z))]
    i, j, k = (slice(s, s + n) for s, n in zip(start, shape, strict=True))
    cut: Tensor = logits[0, :, i, j, k]
    return cut


def _batch_of_one(model: TaskModel, prepared: Prepared, size: Triple) -> Float[Tensor, "1 c x y z"]:
    origin = centre_origin(prepared.image.shape[1:], size)
    image = torch.from_numpy(window(prepared.image, origin, size, prepared.background))[None]
    return image.to(next(model.parameters()).device)


def _forward(model: TaskModel, x: Float[Tensor, "b c x y z"]) -> Float[Tensor, "b k *space"]:
    """Outputs, the mean over the mirror images that the model asks for."""
    axes = [2 + AXES.index(axis) for axis in model.spec.mirror]
    total = torch.zeros((), device=x.device)
    for flipped in (some for n in range(len(axes) + 1) for some in combinations(axes, n)):
        outputs = model(x.flip(flipped)).float()
        total = total + (outputs.flip(flipped) if outputs.ndim == x.ndim else outputs)
    mean: Tensor = total / 2 ** len(axes)
    return mean
