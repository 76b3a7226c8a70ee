"""Losses of the three kinds of task, in float32 whatever the network computed in."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor


def dice_cross_entropy(logits: Float[Tensor, "b k x y z"], target: Int64[Tensor, "b x y z"]) -> Float[Tensor, ""]:
    """Cross entropy plus soft Dice loss of the foreground classes, as nnU-Net (Isensee et al. 2021).

    Dice is summed over the batch before it is divided: a crop without a class then does not put all weight on a few
    false voxels.
    """
    logits = logits.float()
    probability = logits.softmax(dim=1)[:, 1:]
    truth = F.one_hot(target, logits.shape[1]).movedim(-1, 1)[:, 1:].to(probability.dtype)
    axes = (0, 2, 3, 4)
    overlap = (probability * truth).sum(axes)
    dice = (2.0 * overlap + 1.0) / (probability.sum(axes) + truth.sum(axes) + 1.0)
    return F.cross_entropy(logits, target) + (1.0 - dice).mean()


def classification_loss(logits: Float[Tensor, "b k"], target: Float[Tensor, "b"]) -> Float[Tensor, ""]:
    """Cross entropy over class indices."""
    return F.cross_entropy(logits.float(), target.long())


def regression_loss(values: Float[Tensor, "b 1"], target: Float[Tensor, "b"]) -> Float[Tensor, ""]:
    """Smooth L1 on standardised targets: quadratic below one standard deviation, linear above."""
    return F.smooth_l1_loss(values[:, 0].float(), target)


def task_loss(kind: str, outputs: Tensor, masks: Tensor | None, values: Float[Tensor, "b"]) -> Float[Tensor, ""]:
    """The loss of a kind of task; `masks` for segmentation, `values` for the other two."""
    if kind == "segmentation":
        if masks is None:
            raise ValueError("segmentation needs masks")
        return dice_cross_entropy(outputs, masks.to(torch.int64))
    return (classification_loss if kind == "classification" else regression_loss)(outputs, values)
