"""Training batches as a pure function of (seed, step): whom, where, and the keys of the augmentation."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int16, Int64
from torch import Tensor

from fomo_ssl.core.seeding import numpy_generator, sample_key
from fomo_ssl.core.types import Triple
from fomo_ssl.downstream.cases import Example, centre_origin, window

# Enough voxels of a class to aim at, and no list of millions for a large organ.
_MAX_TARGETS = 20_000


@dataclass
class TaskBatch:
    """Crops with labels.

    Attributes:
        images: normalised.
        masks: class of every voxel; None unless the task is segmentation.
        values: class index or standardised target; zeros for segmentation.
        keys: of the augmentation.
        spacing: mm.
    """

    images: Float[Tensor, "b c x y z"]
    masks: Int16[Tensor, "b x y z"] | None
    values: Float[Tensor, "b"]
    keys: Int64[Tensor, "b"]
    spacing: Float[Tensor, "b 3"]


class BatchStream:
    """All batches of a training run, in order; iterating again gives the same ones.

    Examples take turns in a shuffled order, so that after n samples each of n examples was seen once. A segmentation
    crop lies anywhere in the volume (anywhere around it where the volume is the smaller one), or, with probability
    `foreground`, over a random voxel of a random class; other kinds get the centre, as at inference.

    Args:
        examples: the training cases.
        crop: voxels.
        batch_size, steps: samples a step and length of the run.
        foreground: share of the crops that aim at a foreground voxel.
        seed: decides everything.
    """

    def __init__(
        self, examples: Sequence[Example], crop: Triple, batch_size: int, steps: int, foreground: float, seed: int
    ) -> None:
        self.examples, self.crop, self.batch_size, self.steps = examples, crop, batch_size, steps
        self.foreground, self.seed = foreground, seed
        self._targets = [_class_voxels(example.mask, seed) for example in examples]

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[TaskBatch]:
        return (self.batch(step) for step in range(self.steps))

    def batch(self, step: int) -> TaskBatch:
        """The batch of one step."""
        samples = range(step * self.batch_size, (step + 1) * self.batch_size)
        images, masks, values, spacing = [], [], [], []
        for sample in samples:
            position = self._turn(sample)
            example = self.examples[position]
            origin = self.origin(sample, position)
            prepared = example.prepared
            images.append(torch.from_numpy(window(prepared.image, origin, self.crop, prepared.background)))
            if example.mask is not None:
                masks.append(torch.from_numpy(window(example.mask, origin, self.crop, 0.0)).short())
            values.append(0.0 if example.mask is not None else example.value)
            spacing.append(prepared.spacing)
        return TaskBatch(
            images=torch.stack(images),
            masks=torch.stack(masks) if masks else None,
            values=torch.tensor(values, dtype=torch.float32),
            keys=torch.tensor([sample_key(self.seed, sample, "augment") for sample in samples]),
            spacing=torch.tensor(spacing, dtype=torch.float32),
        )

    def origin(self, sample: int, position: int) -> Triple:
        """Corner of the crop that global sample `sample` takes from example `position`."""
        example = self.examples[position]
        shape = example.prepared.image.shape[1:]
        if example.mask is None:
            return centre_origin(shape, self.crop)
        generator = numpy_generator(self.seed, sample, "crop")
        room = [(min(0, n - c), max(0, n - c)) for n, c in zip(shape, self.crop, strict=True)]
        targets = self._targets[position]
        if targets and generator.random() < self.foreground:
            voxels = targets[int(generator.integers(len(targets)))]
            voxel = voxels[int(generator.integers(len(voxels)))]
            corner = [int(v - generator.integers(c)) for v, c in zip(voxel, self.crop, strict=True)]
            x, y, z = (min(max(c, low), high) for c, (low, high) in zip(corner, room, strict=True))
        else:
            x, y, z = (int(generator.integers(low, high + 1)) for low, high in room)
        return x, y, z

    def _turn(self, sample: int) -> int:
        round_, place = divmod(sample, len(self.examples))
        return int(numpy_generator(self.seed, round_, "order").permutation(len(self.examples))[place])


def _class_voxels(mask: np.ndarray | None, seed: int) -> list[np.ndarray]:
    """Coordinates (n, 3) of the voxels of each foreground class that is there, thinned at random."""
    if mask is None:
        return []
    found = []
    for label in np.unique(mask[mask > 0]):
        voxels = np.argwhere(mask == label)
        if len(voxels) > _MAX_TARGETS:
            chosen = numpy_generator(seed, int(label), "targets").choice(len(voxels), _MAX_TARGETS, replace=False)
            voxels = voxels[np.sort(chosen)]
        found.append(voxels)
    return found
