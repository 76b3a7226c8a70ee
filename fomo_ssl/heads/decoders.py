"""Decoders from an encoder's tokens or maps back to voxels."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from fomo_ssl.core.types import FeatureInfo, Triple
from fomo_ssl.heads.ladder import ladder, step
from fomo_ssl.layers import recompute
from fomo_ssl.layers.convolution import ConvNorm, init_convolution
from fomo_ssl.layers.linear import Linear
from fomo_ssl.layers.tokens import all_tokens, token_coordinates
from fomo_ssl.layers.transformer import Block, init_transformer, rotary_angles


class TokenDecoder(nn.Module):
    """Transformer that predicts every patch from the visible tokens (He et al. 2021, arXiv 2111.06377, section 3).

    Visible tokens are scattered to their places on the grid, a learned mask token stands everywhere else, and rotary
    positions tell them apart. It runs on all tokens, so it and not the encoder dominates the cost of an MAE: the
    default is shallow and half as wide as the encoder.
    """

    grad_checkpointing = False

    def __init__(
        self,
        encoder_dim: int,
        patch_voxels: int,
        *,
        dim: int | None = None,
        depth: int = 4,
        heads: int | None = None,
        mlp_ratio: float = 4.0,
    ) -> None:
        super().__init__()
        dim = dim or encoder_dim // 2
        heads = heads or wide_heads(dim)
        self.head_dim = dim // heads
        self.embed = Linear(encoder_dim, dim)
        self.blocks = nn.ModuleList(Block(dim, heads, mlp_ratio) for _ in range(depth))
        self.norm = nn.LayerNorm(dim)
        self.predict = Linear(dim, patch_voxels)
        self.apply(init_transformer)
        self.mask_token = nn.Parameter(torch.empty(1, 1, dim).normal_(std=0.02))

    def forward(
        self, tokens: Float[Tensor, "b k d"], keep: Int64[Tensor, "b k"], grid: Triple
    ) -> Float[Tensor, "b n v"]:
        """Predicted patches of the whole grid, in flat order (x slowest) and `patchify`'s order of values."""
        visible = self.embed(tokens)
        index = all_tokens(grid, tokens.device)
        # Under autocast `visible` is bf16 and the parameter float32; a scatter wants one type.
        full = self.mask_token.to(visible.dtype).expand(len(tokens), index.shape[1], -1)
        x = full.scatter(1, keep[..., None].expand_as(visible), visible)
        rotary = rotary_angles(token_coordinates(index, grid), self.head_dim)
        for block in self.blocks:
            x = recompute.run(self, block, x, rotary)
        patches: Tensor = self.predict(self.norm(x))
        return patches


def wide_heads(dim: int) -> int:
    """Heads of at least 64 channels where the width has so many, which divide it.

    Half as many channels a head cost a GPU nearly twice the attention, and attention is most of a decoder that runs on
    all tokens: 1.14 of the speed of a whole step of `vit_b_p8` on 4096 tokens (H200).
    """
    return next(heads for heads in range(max(1, dim // 64), 0, -1) if dim % heads == 0)


class LightDecoder(nn.Module):
    """Convolutional decoder without skips: only the coarsest map, one transposed and one plain convolution a level.

    For masked reconstruction: a skip at full resolution would hand the visible voxels to the output, and what is
    learned would sit in the finest stage and in the decoder.
    """

    grad_checkpointing = False

    def __init__(self, feature_info: Sequence[FeatureInfo], out_channels: int) -> None:
        super().__init__()
        rungs = ladder(feature_info)[::-1]
        self.ups = nn.ModuleList()
        for coarse, fine in pairwise(rungs):
            factor = step(coarse.stride, fine.stride)
            up = nn.ConvTranspose3d(coarse.channels, fine.channels, factor, factor)
            self.ups.append(nn.Sequential(up, ConvNorm(fine.channels, fine.channels)))
        self.predict = nn.Conv3d(rungs[-1].channels, out_channels, 1)
        self.apply(init_convolution)
        # Kaiming's scale is right before an activation. The output starts near the mean of normalised scans, so that
        # the first steps are not spent on unlearning noise as large as the signal.
        with torch.no_grad():
            self.predict.weight.mul_(0.1)

    def forward(
        self, features: list[Float[Tensor, "b _ _ _ _"]], size: Sequence[int] | None = None
    ) -> Float[Tensor, "b o x y z"]:
        """Voxels from the last map, cut to `size` (default: all of the map's voxels times its stride)."""
        x = features[-1]
        for up in self.ups:
            x = recompute.run(self, up, x)
        x = self.predict(x)
        return x if size is None else _cut(x, size)


class UNetDecoder(nn.Module):
    """Decoder with skips to the resolution of the image (Ronneberger et al. 2015, arXiv 1505.04597).

    Each level: transposed convolution, the encoder's maps of that stride beside it, one convolution, as in nnU-Net's
    ResEnc presets. Maps that share the coarsest stride, as a ViT's four do, are fused by a 1x1 convolution first
    (UNETR, arXiv 2103.10504, without its towers). Where the encoder has no map at full resolution, one convolution on
    the image itself, half as wide as that level, takes its place, so that borders finer than a patch survive.
    """

    grad_checkpointing = False

    def __init__(
        self,
        feature_info: Sequence[FeatureInfo],
        out_channels: int,
        in_channels: int = 1,
    ) -> None:
        super().__init__()
        self.rungs = ladder(feature_info)[::-1]
        bottom = self.rungs[0]
        depth = sum(feature_info[i].channels for i in bottom.maps)
        self.fuse = ConvNorm(depth, bottom.channels, kernel=1) if len(bottom.maps) > 1 else nn.Identity()
        half = self.rungs[-1].channels // 2
        self.image_stem = None if self.rungs[-1].maps else ConvNorm(in_channels, half)
        self.ups, self.mixes = nn.ModuleList(), nn.ModuleList()
        for coarse, fine in pairwise(self.rungs):
            factor = step(coarse.stride, fine.stride)
            self.ups.append(nn.ConvTranspose3d(coarse.channels, fine.channels, factor, factor))
            beside = sum(feature_info[i].channels for i in fine.maps)
            if fine is self.rungs[-1] and self.image_stem is not None:
                beside += half
            self.mixes.append(ConvNorm(fine.channels + beside, fine.channels))
        self.predict = nn.Conv3d(self.rungs[-1].channels, out_channels, 1)
        self.apply(init_convolution)

    def forward(
        self,
        image: Float[Tensor, "b c x y z"],
        features: list[Float[Tensor, "b _ _ _ _"]],
        film: Sequence[Float[Tensor, "b _"]] | None = None,
    ) -> Float[Tensor, "b o x y z"]:
        """Dense output of the image's size, whatever that is.

        `film` conditions the decoder: per level above the coarsest, (b, 2c) what its c maps are scaled by beside 1 and
        shifted by, after the level's convolution (Perez et al. 2018, arXiv 1709.07871).
        """
        x = self.fuse(torch.cat([features[i] for i in self.rungs[0].maps], dim=1))
        for level, rung in enumerate(self.rungs[1:]):
            x = recompute.run(self, self._climb, level, x, image, [features[i] for i in rung.maps])
            if film is not None:
                scale, shift = film[level].to(x.dtype)[..., None, None, None].chunk(2, dim=1)
                x = x * (1.0 + scale) + shift
        out: Tensor = self.predict(x)
        return out

    def _climb(
        self,
        level: int,
        x: Float[Tensor, "b _ _ _ _"],
        image: Float[Tensor, "b c x y z"],
        maps: list[Float[Tensor, "b _ x2 y2 z2"]],
    ) -> Float[Tensor, "b _ x2 y2 z2"]:
        """From a level to the next finer one, whose maps of the encoder these are."""
        rung = self.rungs[level + 1]
        size = [-(-n // s) for n, s in zip(image.shape[2:], rung.stride, strict=True)]
        if rung is self.rungs[-1] and self.image_stem is not None:
            maps = [*maps, self.image_stem(image)]
        mixed: Tensor = self.mixes[level](torch.cat([_cut(self.ups[level](x), size), *maps], dim=1))
        return mixed


def _cut(x: Float[Tensor, "b c x y z"], size: Sequence[int]) -> Float[Tensor, "b c x2 y2 z2"]:
    """Leave the first `size` voxels of each axis: what padding added lies at the far end."""
    return x[:, :, : size[0], : size[1], : size[2]]
