"""Losses and monitors as pure functions; all arithmetic in float32, whatever precision the network ran in."""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor

ReconstructionLoss = Literal["mse", "smooth_l1", "l1"]


def reconstruction_error(
    prediction: Float[Tensor, "b n p"],
    target: Float[Tensor, "b n p"],
    kind: ReconstructionLoss,
    valid: Bool[Tensor, "b n p"] | None = None,
) -> Float[Tensor, "b n"]:
    """Mean error of each of n patches of p voxels; `smooth_l1` turns linear at 1 standard deviation (Huber 1964).

    Of the voxels that are `valid`, where it is given; 0 for a patch without any.
    """
    error = _voxel_error(prediction, target, kind)
    if valid is None:
        return error.mean(dim=-1)
    return (error * valid).sum(dim=-1) / valid.sum(dim=-1).clamp_min(1)


def reconstruction_loss(
    prediction: Float[Tensor, "b n p"],
    target: Float[Tensor, "b n p"],
    hidden: Bool[Tensor, "b n"] | None,
    kind: ReconstructionLoss,
    valid: Bool[Tensor, "b n p"] | None = None,
) -> Float[Tensor, ""]:
    """Mean error, over the whole batch, of the voxels that are hidden and valid; 0 where none is both.

    Where `hidden` or `valid` is None, all are.
    """
    if valid is None:
        error = reconstruction_error(prediction, target, kind)
        return error.mean() if hidden is None else masked_mean(error, hidden)
    counts = valid if hidden is None else valid & hidden[..., None]
    return masked_mean(_voxel_error(prediction, target, kind), counts)


def _voxel_error(
    prediction: Float[Tensor, "b n p"], target: Float[Tensor, "b n p"], kind: ReconstructionLoss
) -> Float[Tensor, "b n p"]:
    measure = {"mse": F.mse_loss, "smooth_l1": F.smooth_l1_loss, "l1": F.l1_loss}[kind]
    return measure(prediction.float(), target.float(), reduction="none")


def masked_mean(values: Float[Tensor, "b *n"], mask: Bool[Tensor, "b *#n"] | None) -> Float[Tensor, ""]:
    """Mean of the values under the mask, which may have axes of 1, over the whole batch; 0 where it holds nowhere.

    Of all values where there is no mask.
    """
    if mask is None:
        return values.mean()
    weight = mask.to(values.dtype).expand_as(values)
    return (values * weight).sum() / weight.sum().clamp_min(1.0)


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


def rankme(embedding: Float[Tensor, "n e"]) -> Float[Tensor, ""]:
    """Effective number of dimensions in use, 1 to min(n, e) (RankMe, Garrido et al. 2023, arXiv 2210.02885, eq. 1).

    The exponential of the entropy of the singular values as they are: a mean that all embeddings share counts as one
    large dimension.
    """
    values = torch.linalg.svdvals(embedding.detach().float())
    share = values / values.sum().clamp_min(1e-12) + 1e-7
    rank: Tensor = (-(share * share.log()).sum()).exp()
    return rank


def participation_ratio(embedding: Float[Tensor, "n e"]) -> Float[Tensor, ""]:
    """Effective number of dimensions around the mean, 1 to min(n - 1, e); 0 where all embeddings are equal.

    (sum l)^2 / sum l^2 over the eigenvalues l of the covariance (Gao et al. 2017, doi 10.1101/214262).
    """
    centred = embedding.detach().float()
    values = torch.linalg.svdvals(centred - centred.mean(dim=0)).square()
    ratio: Tensor = values.sum().square() / values.square().sum().clamp_min(1e-30)
    return ratio


def explained(
    prediction: Float[Tensor, "b n p"],
    target: Float[Tensor, "b n p"],
    mask: Bool[Tensor, "b n"],
    valid: Bool[Tensor, "b n p"] | None = None,
) -> Float[Tensor, ""]:
    """Share of the masked voxels' variance that the prediction explains: 0 = no better than their mean, 1 = perfect.

    Of those that are `valid`, where it is given.
    """
    # Weights instead of boolean indexing: its data-dependent size would make a GPU wait for the host every step.
    if valid is None:
        weight = (mask / mask.sum() / target.shape[-1])[..., None]
    else:
        weight = mask[..., None] & valid
        weight = weight / weight.sum().clamp_min(1)
    truth = target.detach().float()
    error = (weight * (prediction.detach().float() - truth).square()).sum()
    variance = (weight * (truth - (weight * truth).sum()).square()).sum()
    return 1.0 - error / variance.clamp_min(1e-12)
