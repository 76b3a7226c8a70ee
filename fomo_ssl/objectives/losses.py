"""Losses and monitors as pure functions; all arithmetic in float32, whatever precision the network ran in."""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor

ReconstructionLoss = Literal["mse", "smooth_l1", "l1"]


def reconstruction_error(
    prediction: Float[Tensor, "b n p"], target: Float[Tensor, "b n p"], kind: ReconstructionLoss
) -> Float[Tensor, "b n"]:
    """Mean error of each of n patches of p voxels; `smooth_l1` turns linear at 1 standard deviation (Huber 1964)."""
    measure = {"mse": F.mse_loss, "smooth_l1": F.smooth_l1_loss, "l1": F.l1_loss}[kind]
    return measure(prediction.float(), target.float(), reduction="none").mean(dim=-1)


def masked_mean(values: Float[Tensor, "b n"], mask: Bool[Tensor, "b n"]) -> Float[Tensor, ""]:
    """Mean of the values under the mask, over the whole batch."""
    weight = mask.to(values.dtype)
    return (values * weight).sum() / weight.sum()


def normalise_patches(
    patches: Float[Tensor, "b n p"], epsilon: float = 1e-6
) -> tuple[Float[Tensor, "b n p"], Float[Tensor, "b n 1"], Float[Tensor, "b n 1"]]:
    """Patches with zero mean and unit variance each, and their means and deviations (He et al. 2022, section 4.1)."""
    patches = patches.float()
    mean = patches.mean(dim=-1, keepdim=True)
    std = (patches.var(dim=-1, keepdim=True, unbiased=False) + epsilon).sqrt()
    return (patches - mean) / std, mean, std


def contrast_logits(
    anchors: Float[Tensor, "n d"], candidates: Float[Tensor, "m d"], own: Int64[Tensor, "n"], temperature: float
) -> Float[Tensor, "n m"]:
    """Cosine similarities over temperature; an anchor's own row is no candidate (NT-Xent, Chen et al. 2020, eq. 1).

    The loss is the cross-entropy of these logits against the row of each anchor's positive.

    Args:
        anchors: projections to be recognised, any length.
        candidates: positives and negatives, among them the anchors themselves.
        own: row of each anchor among the candidates.
        temperature: divides the similarities.
    """
    return cosine(anchors, candidates).div(temperature).scatter(1, own[:, None], float("-inf"))


def cosine(a: Float[Tensor, "n d"], b: Float[Tensor, "m d"]) -> Float[Tensor, "n m"]:
    """Cosine similarities of all pairs of rows."""
    # Autocast would run this product in half precision, where differences below a temperature are lost.
    with torch.autocast(a.device.type, enabled=False):
        return F.normalize(a.float(), dim=1) @ F.normalize(b.float(), dim=1).T


def embedding_std(embedding: Float[Tensor, "b e"]) -> Float[Tensor, ""]:
    """Spread of the unit-length embeddings over the batch: about 1 where they fill the sphere, 0 where they collapsed.

    Mean over dimensions of the standard deviation times sqrt(e) (Chen & He 2021, section 4.1).
    """
    unit = F.normalize(embedding.detach().float(), dim=1)
    return unit.std(dim=0, unbiased=False).mean() * math.sqrt(embedding.shape[1])


def explained(
    prediction: Float[Tensor, "b n p"], target: Float[Tensor, "b n p"], mask: Bool[Tensor, "b n"]
) -> Float[Tensor, ""]:
    """Share of the masked voxels' variance that the prediction explains: 0 = no better than their mean, 1 = perfect."""
    # Weights instead of boolean indexing: its data-dependent size would make a GPU wait for the host every step.
    weight = (mask / mask.sum() / target.shape[-1])[..., None]
    truth = target.detach().float()
    error = (weight * (prediction.detach().float() - truth).square()).sum()
    variance = (weight * (truth - (weight * truth).sum()).square()).sum()
    return 1.0 - error / variance.clamp_min(1e-12)
