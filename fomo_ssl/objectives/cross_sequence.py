"""Cross-sequence reconstruction: one sequence's anatomy and another's look give that other sequence.

After FOMO2JOMO, first in the method track of FOMO25 (arXiv 2604.11679): latents of subject and of sequence,
reconstruction across two sequences of a session, and terms that make the subject's latents agree and the sequence's
differ. Different here: the sequence's latent is one vector a view, where that code has
a map, so that it can carry contrast and no anatomy; the subject's latent is that of the other sequence alone, where
that code takes the mean of both; and both come from the encoder's last map.
"""

import math
from typing import get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from fomo_ssl.core.errors import ConfigError
from fomo_ssl.core.seeding import fold, normal
from fomo_ssl.core.types import Triple, Views, ViewSpec
from fomo_ssl.encoders.base import Encoder
from fomo_ssl.heads.decoders import LightDecoder, TokenDecoder
from fomo_ssl.layers.tokens import all_tokens, gather_tokens, unpatchify
from fomo_ssl.layers.transformer import init_transformer
from fomo_ssl.objectives.base import (
    Encoded,
    Objective,
    ObjectiveOutput,
    Preview,
    check_choice,
    encode,
    objectives,
    previewed,
)
from fomo_ssl.objectives.losses import ReconstructionLoss, reconstruction_error
from fomo_ssl.objectives.places import last_map

_LOG_VARIANCE = -4.0  # of a latent at first
_LOG_RANGE = 10.0  # of a latent's log variance: exp stays finite in float32


@objectives.register("cross_sequence")
class CrossSequence(Objective):
    """Reconstruct sequence B from the places of sequence A that the encoder saw, and from a vector that B looks by.

    Two sequences of one session on one region, moved together by the augmentation. Samples whose session has one
    sequence only add nothing. Alone it hides nothing; in a hybrid it scores what the hiding member left visible.

    Args:
        encoder: any encoder.
        subject_dim: channels of the subject's latent, at each place of the last map.
        sequence_dim: length of the sequence's latent.
        loss: error of a voxel.
        cross, kl, agree, differ: weights of the terms: reconstruction across sequences; Kullback-Leibler divergence of
            the latents from N(0, 1); 1 - cosine of the two subject latents, place by place; cosine of the two sequence
            latents.
        loss_mask: leave voxels of the aim that do not count, such as a defaced region, out of the reconstruction.
        decoder_dim, decoder_depth: transformer decoder of encoders that drop tokens; by default half the encoder's
            width.
    """

    reconstructs = True

    def __init__(
        self,
        encoder: Encoder,
        *,
        subject_dim: int = 256,
        sequence_dim: int = 64,
        loss: ReconstructionLoss = "mse",
        cross: float = 1.0,
        kl: float = 0.001,
        agree: float = 0.5,
        differ: float = 0.5,
        loss_mask: bool = True,
        decoder_dim: int | None = None,
        decoder_depth: int = 4,
    ) -> None:
        super().__init__(encoder, ViewSpec(n=2, pairing="session", together=True, valid=loss_mask))
        check_choice("loss of cross_sequence", loss, get_args(ReconstructionLoss))
        if subject_dim < 1 or sequence_dim < 1:
            raise ConfigError(f"latents of {subject_dim} and {sequence_dim} channels")
        last, channels = encoder.feature_info[-1], encoder.in_channels
        self.kind, self.stride = loss, last.stride
        self.weights = {"cross": cross, "kl": kl, "agree": agree, "differ": differ}
        # Mean and log variance of each latent.
        self.subject = nn.Linear(last.channels, 2 * subject_dim)
        self.sequence = nn.Linear(last.channels, 2 * sequence_dim)
        self.join = nn.Linear(subject_dim + sequence_dim, last.channels)
        for layer in (self.subject, self.sequence, self.join):
            init_transformer(layer)
        # Latents start almost certain: noise of variance 1 would drown what small initial weights say.
        nn.init.constant_(self.subject.bias[subject_dim:], _LOG_VARIANCE)
        nn.init.constant_(self.sequence.bias[sequence_dim:], _LOG_VARIANCE)
        self.decoder: nn.Module = (
            TokenDecoder(last.channels, channels * math.prod(last.stride), dim=decoder_dim, depth=decoder_depth)
            if encoder.supports_token_dropping
            else LightDecoder(encoder.feature_info, channels)
        )

    def score(self, encoded: list[Encoded], views: Views, step: int) -> ObjectiveOutput:
        """The four terms between the first two views, averaged over samples; those without a pair count as 0."""
        x, y, z = views.images[0].shape[2:]
        size, paired = (x, y, z), views.paired.float()
        subject, sequence, held, divergence = self._latents(encoded, views, size)
        errors = []
        for own, other in ((0, 1), (1, 0)):
            predicted = self._decode(subject[own], sequence[other], encoded[own], size)
            errors.append(self._error(predicted, views, other))
        parts = {
            "cross": torch.stack(errors).mean(0),
            "kl": divergence,
            "agree": 1.0 - shared_cosine(subject[0], subject[1], held[0] * held[1]),
            "differ": F.cosine_similarity(sequence[0], sequence[1], dim=1),
        }
        means = {name: (paired * values).mean() for name, values in parts.items()}
        loss = torch.stack([self.weights[name] * value for name, value in means.items()]).sum()
        return ObjectiveOutput(
            loss=loss,
            terms={f"cross_sequence/{name}": value.detach() for name, value in ({"loss": loss} | means).items()},
            health={"cross_sequence/paired": paired.mean()},
        )

    @torch.no_grad()
    def preview(self, views: Views) -> Preview:
        """The second view of the first samples, the first one, and what is made of it in the second's look."""
        views = previewed(views)
        x, y, z = views.images[0].shape[2:]
        encoded = [encode(self.encoder, image, None, self.mask_unit) for image in views.images[:2]]
        subject, sequence, _, _ = self._latents(encoded, views, (x, y, z))
        made = self._decode(subject[0], sequence[1], encoded[0], (x, y, z))
        target, visible, reconstruction = (v[:, :1].float() for v in (views.targets[1], views.images[0], made))
        return Preview(target=target, visible=visible, reconstruction=reconstruction)

    def _latents(
        self, encoded: list[Encoded], views: Views, size: Triple
    ) -> tuple[list[Float[Tensor, "b gx gy gz s"]], list[Tensor], list[Tensor], Float[Tensor, "b"]]:
        """Per view subject and sequence latents and where the former are held, and the divergence of all of them."""
        subjects, sequences, held, divergences = [], [], [], []
        for view, one in enumerate(encoded[:2]):
            features, there = last_map(one, size, self.stride)
            with torch.autocast(features.device.type, enabled=False):
                places, there = features.movedim(1, -1), there.movedim(1, -1)
                subject, far = self._draw(self.subject(places), views, f"subject/{view}")
                pooled = (places * there).sum((1, 2, 3)) / there.sum((1, 2, 3))
                sequence, astray = self._draw(self.sequence(pooled), views, f"sequence/{view}")
            subjects.append(subject)
            sequences.append(sequence)
            held.append(there)
            far = (far.mean(-1, keepdim=True) * there).sum((1, 2, 3, 4)) / there.sum((1, 2, 3, 4))
            divergences.append(far + astray.mean(1))
        return subjects, sequences, held, torch.stack(divergences).mean(0)

    def _error(self, predicted: Float[Tensor, "b c x y z"], views: Views, view: int) -> Float[Tensor, "b"]:
        """Mean error of each sample against a view, over the voxels of it that count."""
        target, counted = views.targets[view], self.counted(views, view)
        valid = None if counted is None else counted.expand_as(target).flatten(1)[:, None]
        return reconstruction_error(predicted.flatten(1)[:, None], target.flatten(1)[:, None], self.kind, valid)[:, 0]

    def _draw(self, heads: Float[Tensor, "b ... k"], views: Views, stream: str) -> tuple[Tensor, Tensor]:
        """A latent, drawn by the sample's key, and its divergence from N(0, 1)."""
        mean, log_variance = heads.chunk(2, dim=-1)
        log_variance = log_variance.clamp(-_LOG_RANGE, _LOG_RANGE)
        divergence = 0.5 * (mean.square() + log_variance.exp() - 1.0 - log_variance)
        noise = normal(fold(views.keys, f"cross_sequence/{stream}"), *mean.shape[1:])
        return mean + (0.5 * log_variance).exp() * noise, divergence

    def _decode(
        self,
        subject: Float[Tensor, "b gx gy gz s"],
        sequence: Float[Tensor, "b q"],
        encoded: Encoded,
        size: Triple,
    ) -> Float[Tensor, "b c x y z"]:
        """A volume from one view's anatomy, at the places where `encoded` holds some, and a look."""
        b, gx, gy, gz, _ = subject.shape
        look = sequence[:, None, None, None].expand(-1, gx, gy, gz, -1)
        joined = self.join(torch.cat((subject, look), dim=-1))
        if isinstance(self.decoder, LightDecoder):
            volume: Tensor = self.decoder([joined.movedim(-1, 1)], size)
            return volume
        keep = encoded.keep
        if keep is None:
            keep = all_tokens((gx, gy, gz), joined.device).expand(b, -1)
        patches = self.decoder(gather_tokens(joined.flatten(1, 3), keep), keep, (gx, gy, gz))
        x, y, z = size
        return unpatchify(patches, self.stride, (gx, gy, gz))[:, :, :x, :y, :z]


def shared_cosine(
    a: Float[Tensor, "b gx gy gz s"], b: Float[Tensor, "b gx gy gz s"], both: Float[Tensor, "b gx gy gz 1"]
) -> Float[Tensor, "b"]:
    """Mean cosine similarity over the places that both maps hold; 1 where they share none."""
    similarity = F.cosine_similarity(a, b, dim=-1)[..., None] * both
    shared = both.sum((1, 2, 3, 4))
    return torch.where(shared > 0, similarity.sum((1, 2, 3, 4)) / shared.clamp_min(1.0), 1.0)
