"""A released encoder as its users hold it: it takes raw scans."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from fomo_ssl.bundle.config import BundleConfig, load_config
from fomo_ssl.bundle.weights import load_weights
from fomo_ssl.core.errors import Reason, RejectedScan
from fomo_ssl.encoders.base import Encoder
from fomo_ssl.imaging import nifti
from fomo_ssl.imaging.canonical import canonicalise
from fomo_ssl.imaging.header import is_usable
from fomo_ssl.imaging.intensity import normalise
from fomo_ssl.imaging.nifti import Volume

_T = TypeVar("_T")

MAX_EMBED_VOXELS = 2**25
"""Largest volume, after preprocessing, that `embed` takes in one piece: 320^3, any head at 1 mm with room to spare."""


class ReleasedEncoder(nn.Module):
    """A loaded encoder with its input contract; `forward` and `forward_features` are the encoder's own."""

    def __init__(self, encoder: Encoder, config: BundleConfig) -> None:
        super().__init__()
        self.encoder, self.config = encoder, config

    def forward(self, x: Float[Tensor, "b c x y z"]) -> Float[Tensor, "b e"]:
        embedding: Tensor = self.encoder(x)
        return embedding

    def forward_features(self, x: Float[Tensor, "b c x y z"]) -> list[Float[Tensor, "b _ _ _ _"]]:
        """Feature maps of normalised input, finest first."""
        return self.encoder.forward_features(x)

    @torch.no_grad()  # not inference mode: its tensors can enter no training, such as that of a probe
    def embed(self, scan: Any) -> Float[Tensor, "e"]:
        """One embedding of one whole scan, preprocessed as the training data were.

        Args:
            scan: a path to a NIfTI file, a `Volume`, a NIfTI image of nibabel, or a pair (array x y z, affine).

        Raises:
            RejectedScan: the scan cannot be read, is empty, or has over `MAX_EMBED_VOXELS` voxels after resampling.
        """
        volume = _as_volume(scan)
        canonical = canonicalise(volume, self.config.input.spec)
        _check_embed_size(canonical.data)
        return self.embed_normalised(normalise(canonical.data, canonical.stats))

    @torch.no_grad()
    def feature_maps(self, scan: Any) -> list[tuple[Float[Tensor, "_ _ _ _"], Float[np.ndarray, "4 4"]]]:
        """Feature maps of one whole scan, preprocessed as the training data were, finest first.

        Returns:
            For each map its values (channels, x, y, z), and the affine from its voxels to mm in the space of the scan.
            A voxel of a map of stride s lies at the centre of its s voxels along each axis.

        Raises:
            RejectedScan: see `embed`.
        """
        canonical = canonicalise(_as_volume(scan), self.config.input.spec)
        _check_embed_size(canonical.data)
        maps = self._run(self.encoder.forward_features, normalise(canonical.data, canonical.stats))
        found = []
        for values, info in zip(maps, self.encoder.feature_info, strict=True):
            stride = np.array(info.stride, dtype=np.float64)
            within = np.diag([*stride, 1.0])
            within[:3, 3] = (stride - 1) / 2
            found.append((values[0], canonical.affine @ within))
        return found

    @torch.no_grad()
    def embed_normalised(self, image: np.ndarray) -> Float[Tensor, "e"]:
        """One embedding of one whole scan in canonical form with normalised intensities, such as a store holds.

        Args:
            image: (x, y, z) float.

        Raises:
            RejectedScan: over `MAX_EMBED_VOXELS` voxels.
        """
        _check_embed_size(image)
        embedding: Tensor = self._run(self.encoder, image)
        return embedding[0]

    def _run(self, function: Callable[[Tensor], _T], image: np.ndarray) -> _T:
        """In evaluation mode, where the encoder is and with its type; one image for all its input sequences."""
        x = torch.from_numpy(image).float()
        first = next(self.encoder.parameters())
        training = self.encoder.training
        self.encoder.eval()
        try:
            return function(x.to(first.device, first.dtype).expand(1, self.config.in_channels, *x.shape))
        finally:
            self.encoder.train(training)


def load_encoder(path: str | Path) -> ReleasedEncoder:
    """A released encoder, ready to embed scans.

    Raises:
        BundleError: see `load_weights`.
    """
    config = load_config(Path(path))
    return ReleasedEncoder(load_weights(Path(path), config.in_channels), config).eval()


def _check_embed_size(image: np.ndarray) -> None:
    if image.size > MAX_EMBED_VOXELS:
        raise RejectedScan(Reason.TOO_LARGE, f"{image.size} voxels, at most {MAX_EMBED_VOXELS} are embedded")


def _as_volume(scan: Any) -> Volume:
    if isinstance(scan, Volume):
        return scan
    if isinstance(scan, str | Path):
        return nifti.read(scan)
    if isinstance(scan, tuple):
        data, affine = scan
    else:  # a spatial image of nibabel, which need not be imported to be recognised
        data, affine = scan.get_fdata(), scan.affine
    values, affine = np.array(data, dtype=np.float32), np.asarray(affine, dtype=np.float64)
    while values.ndim > 3 and values.shape[-1] == 1:  # one volume, as in a file
        values = values[..., 0]
    if affine.shape != (4, 4) or not is_usable(affine):
        raise RejectedScan(Reason.BAD_AFFINE, f"of shape {affine.shape}, expected 4 x 4, finite and not singular")
    if not values.size:
        raise RejectedScan(Reason.TOO_SMALL, f"shape {values.shape}")
    return Volume(values, affine, nifti.zero_non_finite(values))
