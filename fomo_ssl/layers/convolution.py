"""The 3D convolution unit of nnU-Net: convolution, instance norm, leaky ReLU. Encoders and decoders share it."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from fomo_ssl.core.errors import ConfigError
from fomo_ssl.core.types import Triple

SLOPE = 0.01
"""Negative slope of every leaky ReLU."""


_NATIVE_BELOW = 20480
_ONEDNN = bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]


class ConvNorm(nn.Module):
    """Convolution with same padding, instance norm and, if `act`, a leaky ReLU.

    The norm is an affine instance norm (eps 1e-5) under the parameter names of a GroupNorm with one channel a group;
    `normalise` says how it is computed.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int = 3,
        stride: int | Triple = 1,
        *,
        bias: bool = True,
        act: bool = True,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv3d(in_channels, out_channels, kernel, stride, padding=kernel // 2, bias=bias)
        self.norm = nn.GroupNorm(out_channels, out_channels)
        self.act = act

    def forward(self, x: Float[Tensor, "b c x y z"]) -> Float[Tensor, "b _ _ _ _"]:
        """Maps of the same size, or the size over the stride, rounded up.

        Raises:
            ConfigError: the result has one voxel: its norm is rounding errors, which later norms scale up to a signal.
        """
        x = convolve(self.conv, x)
        if x.shape[2:] == (1, 1, 1):
            raise ConfigError(
                "a map of one voxel, which instance norm would set to a constant",
                way_out="use larger crops, or an encoder with smaller patches or fewer stages",
            )
        x = normalise(self.norm, x)
        return F.leaky_relu(x, SLOPE, inplace=True) if self.act else x


def normalise(norm: nn.GroupNorm, x: Float[Tensor, "b c x y z"]) -> Float[Tensor, "b c x y z"]:
    """Instance norm by the kernel that suits the device, with the same numbers up to rounding.

    On a CPU as a GroupNorm, at 1.2 times the speed. On a GPU as an instance norm: autocast runs a GroupNorm in float32,
    at 1.8 times the memory of a whole `resenc_l`. Under the compiler written out: instance norm's kernel views samples
    as channels, which forces a copy where channels are last.
    """
    if torch.compiler.is_compiling():
        var, mean = torch.var_mean(x.float(), dim=(2, 3, 4), correction=0, keepdim=True)
        weight, bias = (p.view(-1, 1, 1, 1) for p in (norm.weight, norm.bias))
        return ((x - mean) * ((var + norm.eps).rsqrt() * weight) + bias).to(x.dtype)
    if x.device.type == "cuda":
        return torch.instance_norm(x, norm.weight, norm.bias, None, None, True, 0.0, norm.eps, False)
    out: Tensor = norm(x)
    return out


def convolve(conv: nn.Conv3d, x: Float[Tensor, "b c x y z"]) -> Float[Tensor, "b _ _ _ _"]:
    """The convolution by the kernel that suits a CPU; on other devices as it is.

    Under autocast thin maps stay in float32: oneDNN's bf16 weight gradient of a 3x3x3 kernel is wrong, often NaN, where
    the first axis has two voxels, as it has in the last stages of small crops (torch 2.14 on AVX512-BF16 adds unwritten
    memory). Maps this thin cost nothing.

    In float32 a single sample with up to 20,480 numbers per slice along z would go to a kernel of torch's own, which is
    3 to 15 times slower than oneDNN's: the choice was made for images, and counts one axis too few.
    """
    if x.device.type != "cpu" or torch.compiler.is_compiling():
        out: Tensor = conv(x)
        return out
    if torch.is_autocast_enabled("cpu"):
        if min(x.shape[2:]) > 2:
            return conv(x)  # type: ignore[no-any-return]
        with torch.autocast("cpu", enabled=False):
            return _single(conv, x.float())
    return _single(conv, x)


def _single(conv: nn.Conv3d, x: Float[Tensor, "b c x y z"]) -> Float[Tensor, "b _ _ _ _"]:
    small = len(x) == 1 and x[0, ..., 0].numel() <= _NATIVE_BELOW
    if _ONEDNN and small and x.dtype == torch.float32 and conv.kernel_size != (1, 1, 1):
        padding = [int(p) for p in conv.padding]
        return torch.mkldnn_convolution(x, conv.weight, conv.bias, padding, conv.stride, conv.dilation, conv.groups)
    out: Tensor = conv(x)
    return out


def init_convolution(module: nn.Module) -> None:
    """Kaiming normal for leaky ReLU, biases zero, as nnU-Net; for `nn.Module.apply`."""
    if isinstance(module, (nn.Conv3d, nn.ConvTranspose3d)):
        nn.init.kaiming_normal_(module.weight, a=SLOPE)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
