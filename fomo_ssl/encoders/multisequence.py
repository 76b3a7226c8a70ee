"""Late fusion: a one-sequence encoder reads each sequence on its own, and what it says is averaged or joined."""

from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from fomo_ssl.encoders.base import Encoder, create_encoder, register_encoder


class LateFusion(Encoder):
    """Wraps a one-sequence encoder for `n_sequences` inputs with shared weights.

    Sequences are folded into the batch; maps and embeddings are combined by their mean, with `learned` by a softmax of
    one weight per sequence that starts as the mean, or with `concat` side by side, so that a head sees which sequence
    says what. A sequence that is zero all over is missing: it counts neither in the mean nor in the weights, and its
    joined maps are zero. Unlike an inflated stem it sees each sequence as in pretraining,
    at `n_sequences` times the compute. `name` and `arguments` are those of the registered "late_fusion", so that a
    bundle builds it again.
    """

    def __init__(self, encoder: Encoder, n_sequences: int, learned: bool = False, concat: bool = False) -> None:
        super().__init__()
        if encoder.in_channels != 1:
            raise ValueError(f"late fusion wraps a one-sequence encoder, this one has {encoder.in_channels}")
        if learned and concat:
            raise ValueError("joined maps have no weights to learn: choose learned or concat")
        self.encoder, self.concat = encoder, concat
        width = n_sequences if concat else 1
        self.in_channels, self.embed_dim = n_sequences, encoder.embed_dim * width
        self.feature_info = [replace(level, channels=level.channels * width) for level in encoder.feature_info]
        self.patch_size, self.stem = encoder.patch_size, f"encoder.{encoder.stem}"
        self.logits = nn.Parameter(torch.zeros(n_sequences)) if learned else None
        self.name = "late_fusion"
        self.arguments = {"encoder": encoder.name, "encoder_args": encoder.arguments, "learned": learned}
        if concat:
            self.arguments["concat"] = True

    def forward_features(self, x: Float[Tensor, "b c x y z"]) -> list[Float[Tensor, "b _ _ _ _"]]:
        """The wrapped encoder's maps, combined over the sequences."""
        maps = self.encoder.forward_features(x.flatten(0, 1)[:, None])
        present = x.flatten(2).ne(0).any(dim=2)
        return [self._combine(level.reshape(*x.shape[:2], *level.shape[1:]), present) for level in maps]

    def pool(self, features: list[Float[Tensor, "b _ _ _ _"]]) -> Float[Tensor, "b e"]:
        """The wrapped encoder's embedding of the combined maps; of joined ones, the embeddings side by side."""
        if not self.concat:
            return self.encoder.pool(features)
        apart = [level.reshape(-1, level.shape[1] // self.in_channels, *level.shape[2:]) for level in features]
        return self.encoder.pool(apart).reshape(len(features[-1]), -1)

    def no_weight_decay(self) -> set[str]:
        """Those of the wrapped encoder."""
        return {f"encoder.{name}" for name in self.encoder.no_weight_decay()}

    def layer_groups(self) -> list[list[str]]:
        """Those of the wrapped encoder; the sequence weights go with the last."""
        groups = [[f"encoder.{name}" for name in group] for group in self.encoder.layer_groups()]
        if self.logits is not None:
            groups[-1].append("logits")
        return groups

    def _combine(self, maps: Float[Tensor, "b s c x y z"], present: Bool[Tensor, "b s"]) -> Float[Tensor, "b _ x y z"]:
        weights = present.to(maps.dtype)
        if self.logits is not None:
            weights = weights * self.logits.exp().to(maps.dtype)
        if not self.concat:
            weights = weights / weights.sum(dim=1, keepdim=True).clamp_min(torch.finfo(maps.dtype).tiny)
        weighted = maps * weights[..., None, None, None, None]
        return weighted.flatten(1, 2) if self.concat else weighted.sum(dim=1)


@register_encoder("late_fusion")
def late_fusion(
    in_channels: int = 1,
    encoder: str = "vit_t_p8",
    encoder_args: dict[str, Any] | None = None,
    learned: bool = False,
    concat: bool = False,
) -> LateFusion:
    """A registered one-sequence `encoder` for each of `in_channels` sequences."""
    return LateFusion(create_encoder(encoder, in_channels=1, **(encoder_args or {})), in_channels, learned, concat)
