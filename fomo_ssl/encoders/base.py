"""The contract of every encoder: a feature pyramid, one embedding, and what exports and optimisers need to know."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from fomo_ssl.core.registry import Builder, Registry
from fomo_ssl.core.types import FeatureInfo, Triple
from fomo_ssl.layers.recompute import set_grad_checkpointing


class Encoder(nn.Module, ABC):
    """A 3D encoder. Leaves are final: vary by arguments, not by overriding.

    Attributes set by every leaf:
        in_channels: number of input sequences.
        embed_dim: length E of the embedding.
        feature_info: one entry per map of `forward_features`, finest first.
        supports_token_dropping: whether `forward_tokens` exists.
        patch_size: voxels per token, for encoders that drop tokens; else the coarsest stride.
        stem: dotted name of the first layer; its weight is (o, sequences, ...), so that it can be inflated.

    `create_encoder` records `name` and `arguments`, so that a bundle can build the same encoder again.
    """

    name: str = ""
    arguments: dict[str, Any]
    in_channels: int
    embed_dim: int
    feature_info: list[FeatureInfo]
    supports_token_dropping: bool = False
    patch_size: Triple
    stem: str
    grad_checkpointing: bool = False

    @abstractmethod
    def forward_features(self, x: Float[Tensor, "b c x y z"]) -> list[Float[Tensor, "b _ _ _ _"]]:
        """Feature maps, finest first; a map's size is that of the input over its stride, rounded up.

        Inputs that are no multiple of the coarsest stride are padded at the far end, and the maps cropped back.
        """

    def pool(self, features: list[Float[Tensor, "b _ _ _ _"]]) -> Float[Tensor, "b e"]:
        """The embedding of a pyramid that `forward_features` returned: the mean of its last map over space."""
        return features[-1].mean(dim=(2, 3, 4))

    def forward(self, x: Float[Tensor, "b c x y z"]) -> Float[Tensor, "b e"]:
        """One embedding per sample."""
        return self.pool(self.forward_features(x))

    def forward_tokens(
        self, x: Float[Tensor, "b c x y z"], keep: Int64[Tensor, "b k"]
    ) -> tuple[Float[Tensor, "b k d"], Float[Tensor, "b e"]]:
        """Encode only the tokens `keep` (flat indices into the patch grid, x slowest); tokens and their embedding."""
        raise TypeError(f"{type(self).__name__} cannot drop tokens; mask voxels instead")

    def no_weight_decay(self) -> set[str]:
        """Names of parameters without weight decay beside the one-dimensional ones."""
        return set()

    def layer_groups(self) -> list[list[str]]:
        """Parameter name prefixes from the stem to the last stage, for layer-wise learning-rate decay."""
        return [[name] for name, _ in self.named_children()]

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Trade compute for memory in the encoder's blocks."""
        set_grad_checkpointing(self, enable)


def pad_to_multiple(x: Float[Tensor, "b c x y z"], stride: Triple) -> Float[Tensor, "b c x2 y2 z2"]:
    """Pad the far end of each axis with the edge value to a multiple of `stride`."""
    pads = [(-size) % s for size, s in zip(x.shape[2:], stride, strict=True)]
    if not any(pads):
        return x
    return F.pad(x, (0, pads[2], 0, pads[1], 0, pads[0]), mode="replicate")


def crop_maps(
    maps: list[Float[Tensor, "b _ _ _ _"]], info: list[FeatureInfo], size: Sequence[int]
) -> list[Float[Tensor, "b _ _ _ _"]]:
    """Cut the maps of a padded input back to `size` over their strides, rounded up."""
    cropped = []
    for level, entry in zip(maps, info, strict=True):
        x, y, z = (-(-n // s) for n, s in zip(size, entry.stride, strict=True))
        cropped.append(level[:, :, :x, :y, :z])
    return cropped


encoders: Registry[Encoder] = Registry("encoder")


def register_encoder(name: str) -> Callable[[Builder[Encoder]], Builder[Encoder]]:
    """Decorator: file an encoder builder under `name`."""
    return encoders.register(name)


def create_encoder(name: str, in_channels: int = 1, **kwargs: Any) -> Encoder:
    """Build an encoder by name, as `timm.create_model` does.

    Args:
        name: one of `list_encoders()`, such as "vit_s_p8" or "resenc_s".
        in_channels: number of input sequences.
        kwargs: passed to the builder.

    Raises:
        UnknownNameError: no such encoder; near names are listed.
    """
    encoder = encoders.create(name, in_channels=in_channels, **kwargs)
    encoder.name, encoder.arguments = name, dict(kwargs)
    return encoder


def list_encoders(pattern: str = "*") -> list[str]:
    """Names of registered encoders that match a shell wildcard such as "vit_*"."""
    return encoders.names(pattern)


@torch.no_grad()
def inflate_stem(weight: Tensor, in_channels: int, generator: torch.Generator | None = None) -> Tensor:
    """A stem weight (o, 1, ...) of one sequence for `in_channels` sequences.

    Without a generator every sequence gets the same kernels, divided so that activations keep scale. The encoder then
    reads the mean of the sequences and nothing else: a lesion that is bright on one and dark on another cancels. With
    a generator each of the o kernels gets its own random unit vector over the sequences, so that contrasts between
    them pass from the first step. With few kernels it depends on the draw how well.

    Raises:
        ValueError: the weight has several inputs already and another number is asked for.
    """
    if weight.shape[1] == in_channels:
        return weight.clone()
    if weight.shape[1] != 1:
        raise ValueError(f"only a one-sequence stem can be inflated, this one has {weight.shape[1]} inputs")
    if generator is None:
        return weight.repeat_interleave(in_channels, dim=1) / in_channels
    mixing = torch.randn(len(weight), in_channels, generator=generator).to(weight)
    mixing = mixing / mixing.norm(dim=1, keepdim=True)
    mixed: Tensor = weight * mixing.reshape(*mixing.shape, *[1] * (weight.ndim - 2))
    return mixed


def load_encoder_state(encoder: Encoder, state: Mapping[str, Tensor]) -> None:
    """Copy a state dict into an encoder, strictly; the stem of a one-sequence state is inflated where needed.

    Raises:
        ValueError: tensors are missing, unexpected or of another shape; names them.
    """
    own, stem = encoder.state_dict(), f"{encoder.stem}.weight"
    state = dict(state)
    if stem in own and stem in state:
        state[stem] = inflate_stem(state[stem], own[stem].shape[1])
    problems = {
        "missing": sorted(own.keys() - state.keys()),
        "unexpected": sorted(state.keys() - own.keys()),
        "of another shape": sorted(k for k in own.keys() & state.keys() if own[k].shape != state[k].shape),
    }
    if any(problems.values()):
        raise ValueError("; ".join(f"{what}: {', '.join(names)}" for what, names in problems.items() if names))
    encoder.load_state_dict(state)
