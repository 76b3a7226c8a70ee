"""Prediction of one session, the same after training, in evaluation and from a released bundle; no Lightning.

The rule of the input, which holds for training crops too: a volume is put into a box of the model's crop size, centred,
with the intensity of empty space around it. Segmentation slides that box over a volume that is larger (half a box a
step, Gaussian weights); classification and regression see the central box only.
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from fomo_ssl.core.types import Triple
from fomo_ssl.downstream.cases import Prepared, centre_origin, prepare, window
from fomo_ssl.downstream.models import TaskModel, load_model
from fomo_ssl.downstream.tasks import choose_sequence
from fomo_ssl.imaging.canonical import from_canonical

OVERLAP = 0.5


def predict_case(bundle: Path, images: Mapping[str, Path]) -> np.ndarray | float:
    """Predict one session with a finetuned bundle.

    Args:
        bundle: folder of a finetuned bundle.
        images: path by sequence name.

    Returns:
        Segmentation: a uint8 mask on the grid of the first sequence's file. Classification: the probability of class 1;
        with three and more classes the most likely class. Regression: the value.

    Raises:
        BundleError, RejectedScan, TaskError: see `load_model` and `prepare`.
    """
    model = load_model(Path(bundle))
    found = {entry: choose_sequence(entry, images) for entry in model.spec.sequences}
    paths = {entry: path for entry, path in found.items() if path is not None}
    prepared = prepare(paths, model.spec.sequences, model.spec.canonical)
    if model.spec.kind == "segmentation":
        return predict_mask(model, prepared)
    outputs = predict_scan(model, prepared)
    if model.spec.kind == "regression":
        return float(outputs[0])
    return float(outputs[1]) if len(outputs) == 2 else float(outputs.argmax())


@torch.inference_mode()
def predict_mask(model: TaskModel, prepared: Prepared) -> np.ndarray:
    """The most likely class of every voxel, uint8, on the grid of the session's first file.

    Probabilities and not classes are interpolated between the grids: borders stay smooth. What the foreground box cut
    away is background.
    """
    probability = _dense_logits(model, prepared).float().softmax(dim=0).cpu().numpy()
    shape = prepared.grid.data.shape
    best, mask = np.full(shape, -1.0, np.float32), np.zeros(shape, np.uint8)
    for label, plane in enumerate(probability):
        fill = 1.0 if label == 0 else 0.0
        on_grid = from_canonical(plane, prepared.affine, prepared.grid, "linear", fill)
        mask[on_grid > best] = label
        np.maximum(best, on_grid, out=best)
    return mask


@torch.inference_mode()
def predict_scan(model: TaskModel, prepared: Prepared) -> np.ndarray:
    """Probabilities of the classes, or the value of a regression in the unit of its label; float64 (k,)."""
    outputs = _forward(model, _batch_of_one(model, prepared, model.spec.crop)).double().cpu()[0]
    if model.spec.kind == "classification":
        return outputs.softmax(dim=0).numpy()
    return outputs.numpy() * model.spec.target_std + model.spec.target_mean


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
    outputs: Tensor = model(x)
    return outputs.float()
