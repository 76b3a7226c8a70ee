"""Intensity transforms: what scanners do to contrast, shading, sharpness and noise.

Each transform draws parameters (`sample`) and applies them (`apply`), per sample. Input is a normalised intensity of
either sign; where a model needs a positive one (gamma, bias field) it works above the crop's minimum.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from fomo_ssl.core.seeding import fold, normal, uniform
from fomo_ssl.data.augment.params import Grid, Params, draw_applied, on_applied, on_axes
from fomo_ssl.data.augment.separable import along, gaussian_matrix, separable, smooth_field, thick_slice_matrix

Volumes = Float[Tensor, "b c x y z"]
Range = tuple[float, float]


@dataclass(frozen=True)
class GammaParams(Params):
    """`exponent` on the crop's range scaled to 0 .. 1."""

    exponent: Float[Tensor, "b"]


@dataclass(frozen=True)
class Gamma:
    """Bend the grey scale: v -> v^exponent between the crop's minimum and maximum, both kept."""

    p: float
    exponent: Range

    def sample(self, keys: Int64[Tensor, "b"], grid: Grid) -> GammaParams:
        return GammaParams(applied=draw_applied(keys, self.p), exponent=_log_uniform(keys, self.exponent))

    def apply(self, x: Volumes, params: GammaParams) -> Volumes:
        def bend(part: Tensor, p: GammaParams) -> Tensor:
            low, high = _minimum(part), part.amax((1, 2, 3, 4), keepdim=True)
            span = (high - low).clamp(min=1e-6)
            return (part - low).div_(span).pow_(_per_sample(p.exponent)).mul_(span).add_(low)

        return on_applied(x, params, bend)


@dataclass(frozen=True)
class ContrastParams(Params):
    """`factor` about the crop's mean, then `shift`."""

    factor: Float[Tensor, "b"]
    shift: Float[Tensor, "b"]


@dataclass(frozen=True)
class Contrast:
    """Stretch about the crop's mean by `factor` and shift by up to +-`shift` (brightness)."""

    p: float
    factor: Range
    shift: float

    def sample(self, keys: Int64[Tensor, "b"], grid: Grid) -> ContrastParams:
        return ContrastParams(
            applied=draw_applied(keys, self.p),
            factor=_log_uniform(fold(keys, "factor"), self.factor),
            shift=uniform(fold(keys, "shift"), low=-self.shift, high=self.shift),
        )

    def apply(self, x: Volumes, params: ContrastParams) -> Volumes:
        def stretch(part: Tensor, p: ContrastParams) -> Tensor:
            mean = part.mean((1, 2, 3, 4), keepdim=True)
            return (part - mean).mul_(_per_sample(p.factor)).add_(mean + _per_sample(p.shift))

        return on_applied(x, params, stretch)


@dataclass(frozen=True)
class BiasFieldParams(Params):
    """`control`: log gain at the control points of a cubic B-spline."""

    control: Float[Tensor, "b 1 g g g"]


@dataclass(frozen=True)
class BiasField:
    """Coil shading: multiply by the exponential of a smooth field of at most +-`log_gain`; the minimum (air) stays."""

    p: float
    cells: int
    log_gain: float

    def sample(self, keys: Int64[Tensor, "b"], grid: Grid) -> BiasFieldParams:
        count = self.cells + 3
        control = uniform(keys, 1, count, count, count, low=-self.log_gain, high=self.log_gain)
        return BiasFieldParams(applied=draw_applied(keys, self.p), control=control)

    def apply(self, x: Volumes, params: BiasFieldParams) -> Volumes:
        def shade(part: Tensor, p: BiasFieldParams) -> Tensor:
            low = _minimum(part)
            return (part - low).mul_(smooth_field(p.control, part.shape[2:]).exp_()).add_(low)

        return on_applied(x, params, shade)


@dataclass(frozen=True)
class BlurParams(Params):
    """`sigma` of the Gaussian in voxels."""

    sigma: Float[Tensor, "b"]


@dataclass(frozen=True)
class Blur:
    """Smooth with a Gaussian of `sigma` voxels."""

    p: float
    sigma: Range

    def sample(self, keys: Int64[Tensor, "b"], grid: Grid) -> BlurParams:
        sigma = uniform(keys, low=self.sigma[0], high=self.sigma[1])
        return BlurParams(applied=draw_applied(keys, self.p), sigma=sigma)

    def apply(self, x: Volumes, params: BlurParams) -> Volumes:
        def smooth(part: Tensor, p: BlurParams) -> Tensor:
            return separable(part, *(gaussian_matrix(size, p.sigma) for size in part.shape[2:]))

        return on_applied(x, params, smooth)


@dataclass(frozen=True)
class LowResolutionParams(Params):
    """`factor`: slice thickness in voxels along x, y, z; 1 leaves an axis alone."""

    factor: Float[Tensor, "b 3"]


@dataclass(frozen=True)
class LowResolution:
    """Thick slices: average along one axis, or along all three with probability `p_isotropic`, then interpolate."""

    p: float
    factor: Range
    p_isotropic: float

    def sample(self, keys: Int64[Tensor, "b"], grid: Grid) -> LowResolutionParams:
        draws = uniform(keys, 3)
        thickness = self.factor[0] + (self.factor[1] - self.factor[0]) * draws[:, 0]
        axis = (draws[:, 1] * 3).long()
        thick = (torch.arange(3) == axis[:, None]) | (draws[:, 2] < self.p_isotropic)[:, None]
        factor = torch.where(thick, thickness[:, None], torch.ones(()))
        return LowResolutionParams(applied=draw_applied(keys, self.p), factor=factor)

    def apply(self, x: Volumes, params: LowResolutionParams) -> Volumes:
        def thicken(part: Tensor, p: LowResolutionParams, axis: int) -> Tensor:
            return along(part, thick_slice_matrix(part.shape[2 + axis], p.factor[:, axis]), axis)

        return on_axes(x, params, params.factor > 1, thicken)


@dataclass(frozen=True)
class NoiseParams(Params):
    """`sigma` of the noise, and the `keys` from which every voxel's noise follows."""

    sigma: Float[Tensor, "b"]
    keys: Int64[Tensor, "b"]


@dataclass(frozen=True)
class Noise:
    """Add white Gaussian noise with a standard deviation drawn from `sigma`."""

    p: float
    sigma: Range

    def sample(self, keys: Int64[Tensor, "b"], grid: Grid) -> NoiseParams:
        sigma = uniform(fold(keys, "sigma"), low=self.sigma[0], high=self.sigma[1])
        return NoiseParams(applied=draw_applied(keys, self.p), sigma=sigma, keys=fold(keys, "voxels"))

    def apply(self, x: Volumes, params: NoiseParams) -> Volumes:
        def add(part: Tensor, p: NoiseParams) -> Tensor:
            return normal(p.keys, *part.shape[1:]).mul_(_per_sample(p.sigma)).add_(part)

        return on_applied(x, params, add)


IntensityTransform = Gamma | Contrast | BiasField | Blur | LowResolution | Noise


def _log_uniform(keys: Int64[Tensor, "b"], limits: Range) -> Float[Tensor, "b"]:
    return torch.exp(uniform(keys, low=math.log(limits[0]), high=math.log(limits[1])))


def _per_sample(value: Float[Tensor, "b"]) -> Float[Tensor, "b 1 1 1 1"]:
    return value[:, None, None, None, None]


def _minimum(x: Volumes) -> Float[Tensor, "b 1 1 1 1"]:
    return x.amin((1, 2, 3, 4), keepdim=True)
