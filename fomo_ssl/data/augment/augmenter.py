"""The augmenter: stored integers in, normalised and augmented views out, on the device of the batch."""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float, Float32, Int, Int16, Int64
from torch import Tensor, nn

from fomo_ssl.core.errors import ConfigError
from fomo_ssl.core.seeding import fold
from fomo_ssl.core.types import CropBatch, Placement, Views, ViewSpec
from fomo_ssl.corpus.codec import LEVELS, NOT_VALID
from fomo_ssl.data.augment.params import Grid, Transform
from fomo_ssl.data.augment.presets import INTENSITY, PRESETS, SPATIAL, TRANSFORMS, Values
from fomo_ssl.data.augment.spatial import (
    AffineParams,
    ElasticParams,
    Mode,
    WarpParams,
    combine,
    landmarks,
    warp,
)

Switch = bool | Mapping[str, Any]
Record = dict[str, Any]
"""What was drawn for one view: the `Params` of each transform, by its name."""


class Augmenter(nn.Module):
    """Batched augmentation from the keys of the batch alone: no state, no global randomness.

    Args:
        preset: `none`, `spatial`, `intensity` or `all`.
        spec: what the objective asks of its views: whether they move together, and whether it wants to know where
            they lie.
        switches: a transform by its name: False leaves it out, True takes the preset's values, a mapping replaces
            some of them.

    Raises:
        ConfigError: an unknown preset, transform or value.
    """

    def __init__(self, preset: str = "all", spec: ViewSpec | None = None, **switches: Switch) -> None:
        super().__init__()
        self.spec = spec or ViewSpec()
        self.spatial = _build(SPATIAL, preset, switches)
        self.intensity = _build(INTENSITY, preset, switches)
        unknown = switches.keys() - TRANSFORMS.keys()
        if unknown:
            raise ConfigError(f"unknown transform {min(unknown)!r}", way_out=f"One of {', '.join(TRANSFORMS)}")

    @torch.no_grad()
    def augment(self, batch: CropBatch) -> tuple[Views, list[Record]]:
        """The views of a batch, and what was drawn for each view.

        Images and targets of a view share memory where no intensity transform was drawn: do not write into them.
        """
        # The one wait for the device; decisions and parameters then cost none.
        keys, spacing = batch.keys.cpu(), batch.spacing.cpu()
        images, targets, records, places = [], [], [], []
        valid: list[Tensor] | None = [] if batch.flagged else None
        with torch.autocast(batch.keys.device.type, enabled=False):
            for view, stored in enumerate(batch.images):
                grid = Grid(stored.shape[2:], spacing)
                spatial = _draw(self.spatial, keys, "view0" if self.spec.together else f"view{view}", grid)
                intensity = _draw(self.intensity, keys, f"view{view}", grid)
                if valid is not None:
                    counts = (stored < NOT_VALID).to(torch.float32)
                    valid.append(self._move(counts, spatial, "nearest") > 0.5)
                    stored = stored & LEVELS
                targets.append(self._move(normalised(stored, batch.scale[view], batch.offset[view]), spatial))
                images.append(self._shade(targets[view], intensity))
                records.append(spatial | intensity)
                if self.spec.placed:
                    places.append(landmarks(grid.shape, spatial.get("flip"), _warp(spatial), len(batch)))
        views = Views(images, targets, batch.keys, batch.spacing, batch.sequences, batch.paired, valid)
        if self.spec.placed:
            views.placement = Placement(batch.origins, torch.stack(places).to(batch.keys.device, non_blocking=True))
        return views, records

    def forward(self, batch: CropBatch) -> Views:
        """The views of a batch."""
        return self.augment(batch)[0]

    @torch.no_grad()
    def pair(
        self,
        image: Float[Tensor, "b c x y z"],
        label: Int[Tensor, "b x y z"] | None,
        keys: Int64[Tensor, "b"],
        spacing: Float[Tensor, "b 3"] | None = None,
    ) -> tuple[Float[Tensor, "b c x y z"], Int[Tensor, "b x y z"] | None]:
        """Augment normalised images with their label maps.

        All sequences and the label move together, the label by nearest neighbour; intensity differs by sequence.
        `spacing` in mm (isotropic where None) keeps rotations rigid. Nothing drawn gives `image` itself.
        """
        b, c = image.shape[:2]
        grid = Grid(image.shape[2:], torch.ones(b, 3) if spacing is None else spacing.cpu())
        host = keys.cpu()
        with torch.autocast(image.device.type, enabled=False):
            together = _draw(self.spatial, host, "view0", grid)
            image = self._move(image, together)
            if label is not None:
                label = self._move(label[:, None].float(), together, "nearest")[:, 0].to(label.dtype)
            sequences = []
            for channel in range(c):
                own = _draw(self.intensity, host, f"sequence{channel}", grid)
                sequences.append(self._shade(image[:, channel : channel + 1], own))
        # One sequence needs no copy.
        return sequences[0] if c == 1 else torch.cat(sequences, dim=1), label

    def _move(self, x: Float[Tensor, "b c x y z"], record: Record, mode: Mode = "bilinear") -> Tensor:
        """The spatial part: flips, then affine and elastic in one interpolation."""
        if "flip" in record:
            x = self.spatial["flip"].apply(x, record["flip"])
        params = _warp(record)
        return x if params is None else warp(x, params, mode)

    def _shade(self, x: Float[Tensor, "b c x y z"], record: Record) -> Tensor:
        """The intensity part, in the order of the table."""
        for name, transform in self.intensity.items():
            x = transform.apply(x, record[name])
        return x


def normalised(
    stored: Int16[Tensor, "b c x y z"], scale: Float32[Tensor, "b"], offset: Float32[Tensor, "b"]
) -> Float32[Tensor, "b c x y z"]:
    """Stored integers as normalised intensity: value * scale + offset, per sample."""
    per_sample = (slice(None), None, None, None, None)
    return stored.to(torch.float32).mul_(scale[per_sample]).add_(offset[per_sample])


def _draw(transforms: Mapping[str, Transform], keys: Int64[Tensor, "b"], view: str, grid: Grid) -> Record:
    """Parameters of some transforms, each from a stream of its own."""
    return {name: transform.sample(fold(keys, f"{view}.{name}"), grid) for name, transform in transforms.items()}


def _warp(record: Record) -> WarpParams | None:
    """Affine and elastic part of what was drawn, as one warp."""
    affine: AffineParams | None = record.get("affine")
    elastic: ElasticParams | None = record.get("elastic")
    if affine is not None:
        b = len(affine.applied)
    elif elastic is not None:
        b = len(elastic.applied)
    else:
        return None
    none = torch.zeros(b, dtype=torch.bool)
    return combine(
        affine or AffineParams(none, torch.eye(3).repeat(b, 1, 1)),
        elastic or ElasticParams(none, torch.zeros(b, 3, 4, 4, 4)),
    )


def _build(table: Mapping[str, Values], preset: str, switches: Mapping[str, Switch]) -> dict[str, Transform]:
    """The transforms of a table that the preset or a switch turns on, in the order of the table."""
    if preset not in PRESETS:
        raise ConfigError(f"unknown augmentation preset {preset!r}", way_out=f"One of {', '.join(PRESETS)}")
    built: dict[str, Transform] = {}
    for name, values in table.items():
        switch = switches.get(name, name in PRESETS[preset])
        if switch is False:
            continue
        own = values if switch is True else {**values, **switch}
        if own.keys() != values.keys():
            odd = min(own.keys() - values.keys())
            raise ConfigError(f"augmentation {name!r} has no value {odd!r}", way_out=f"It has {', '.join(values)}")
        built[name] = TRANSFORMS[name](**own)
    return built
