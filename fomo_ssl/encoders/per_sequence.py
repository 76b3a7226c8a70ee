"""Each sequence has an encoder of its own, which may become another one in training; their maps stand side by side."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fomo_ssl.encoders.base import Encoder, create_encoder, register_encoder


class PerSequence(Encoder):
    """One-sequence encoders of one architecture, the first for the first sequence, and so on.

    Beside `LateFusion` with `concat` it has `n_sequences` times the parameters at the same compute, and what one
    sequence teaches does not reach the encoders of the others. The maps of a sequence that is zero all over, which is
    missing, are zero. `name` and `arguments` are those of the registered "per_sequence".
    """

    def __init__(self, encoders: Sequence[Encoder]) -> None:
        super().__init__()
        first = encoders[0]
        if any(one.in_channels != 1 or one.feature_info != first.feature_info for one in encoders):
            raise ValueError("encoders of one sequence each and of one architecture are needed")
        self.encoders = nn.ModuleList(encoders)
        self.in_channels, self.embed_dim = len(encoders), first.embed_dim * len(encoders)
        self.feature_info = [replace(level, channels=level.channels * len(encoders)) for level in first.feature_info]
        self.patch_size, self.stem = first.patch_size, f"encoders.0.{first.stem}"
        self.name = "per_sequence"
        self.arguments = {"encoder": first.name, "encoder_args": first.arguments}

    def _each(self) -> list[Encoder]:
        return [one for one in self.encoders if isinstance(one, Encoder)]

    def forward_features(self, x: Float[Tensor, "b c x y z"]) -> list[Float[Tensor, "b _ _ _ _"]]:
        """The maps of all sequences, joined along channels in the order of the sequences."""
        present = x.flatten(2).ne(0).any(dim=2).to(x.dtype)[..., None, None, None, None]
        of_each = [
            [level * present[:, i].to(level.dtype) for level in one.forward_features(x[:, i : i + 1])]
            for i, one in enumerate(self._each())
        ]
        return [torch.cat(levels, dim=1) for levels in zip(*of_each, strict=True)]

    def pool(self, features: list[Float[Tensor, "b _ _ _ _"]]) -> Float[Tensor, "b e"]:
        """The embeddings of all sequences, one after the other."""
        apart = zip(*(level.chunk(self.in_channels, dim=1) for level in features), strict=True)
        return torch.cat([one.pool(list(maps)) for one, maps in zip(self._each(), apart, strict=True)], dim=1)

    def no_weight_decay(self) -> set[str]:
        """Those of the encoders."""
        return {f"encoders.{i}.{name}" for i, one in enumerate(self._each()) for name in one.no_weight_decay()}

    def layer_groups(self) -> list[list[str]]:
        """The groups of the encoders, those of one depth together."""
        of_each = [
            [[f"encoders.{i}.{name}" for name in group] for group in one.layer_groups()]
            for i, one in enumerate(self._each())
        ]
        return [[name for group in groups for name in group] for groups in zip(*of_each, strict=True)]


@register_encoder("per_sequence")
def per_sequence(
    in_channels: int = 1, encoder: str = "vit_t_p8", encoder_args: dict[str, Any] | None = None
) -> PerSequence:
    """A registered one-sequence `encoder` for each of `in_channels` sequences."""
    return PerSequence([create_encoder(encoder, in_channels=1, **(encoder_args or {})) for _ in range(in_channels)])
