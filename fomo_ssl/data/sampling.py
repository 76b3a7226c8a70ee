"""Which crops of which scans make global sample i: a pure function of (seed, i).

Nothing is shuffled in memory and nothing has to be saved: workers, ranks and a resumed run divide the range of i.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int64

from fomo_ssl.core.errors import ConfigError
from fomo_ssl.core.seeding import mix, numpy_generator, sample_key
from fomo_ssl.core.types import Triple, ViewSpec
from fomo_ssl.data.index import ScanIndex

_ROUNDS = 6
_MASK64 = (1 << 64) - 1


@dataclass(frozen=True)
class Request:
    """What one global sample asks of the store.

    Attributes:
        index: global sample index.
        key: the sample's random key, for augmentation and masks.
        rows: row of the index, per view.
        origins: corner of the crop in store voxels, per view; negative where the volume is smaller than the crop.
        paired: False where a second sequence or session was asked for and there is none.
    """

    index: int
    key: int
    rows: tuple[int, ...]
    origins: tuple[Triple, ...]
    paired: bool


class Sampler:
    """Maps a global sample index to a `Request`.

    Without weights every epoch visits each row once, in an order of its own; with weights every sample is a draw of
    its own, with replacement.

    Args:
        index: the scans.
        rows: rows of the index to draw from; second sequences of a session come from these rows too.
        views: how many crops, paired how.
        crop: size of each crop in voxels.
        seed: another seed gives another order, other crops and other augmentations.
        weights: relative weight per entry of `rows`.
        crops_per_scan: so many samples in a row come from one scan. More than 1 opens fewer files and unpacks less, and
            makes batches less varied.

    Raises:
        ConfigError: no rows.
    """

    def __init__(
        self,
        index: ScanIndex,
        rows: Int64[np.ndarray, "k"],
        views: ViewSpec,
        crop: Triple,
        seed: int,
        weights: Float[np.ndarray, "k"] | None = None,
        crops_per_scan: int = 1,
    ) -> None:
        if len(rows) == 0:
            raise ConfigError("there is no scan to draw crops from", way_out="Check held_out and sequences")
        self.index, self.rows, self.views, self.crop, self.seed = index, rows, views, crop, seed
        self.crops_per_scan = crops_per_scan
        self._cumulative = None if weights is None else np.cumsum(weights)
        self._selected = np.zeros(len(index), dtype=bool)
        self._selected[rows] = True

    def __len__(self) -> int:
        """Samples in one epoch."""
        return len(self.rows) * self.crops_per_scan

    @property
    def drawn(self) -> Bool[np.ndarray, "k"]:
        """Which of `rows` can come first in a sample: those whose weight is not zero."""
        if self._cumulative is None:
            return np.ones(len(self.rows), dtype=bool)
        return np.diff(self._cumulative, prepend=0.0) > 0

    def request(self, i: int, attempt: int = 0) -> Request:
        """Rows, corners and key of global sample `i`; attempts above 0 are other draws, for scans that do not open."""
        rng = numpy_generator(self.seed, i, f"crop/{attempt}" if attempt else "crop")
        row = self._row(i, attempt)
        anchor = self._draw_origin(rng, row)
        rows, origins, paired = [row], [anchor], True
        if self.views.n > 1 and self.views.pairing in ("session", "subject"):
            partners = self.partners(rng, row, anchor)
            paired = bool(partners)
            for view in range(self.views.n - 1 if paired else 0):
                partner, origin = partners[view % len(partners)]
                rows.append(partner)
                origins.append(origin)
        if len(rows) < self.views.n:
            rows = [row] * self.views.n
            origins = self._overlapping(rng, row, anchor)
        triples = tuple((int(o[0]), int(o[1]), int(o[2])) for o in origins)
        return Request(i, sample_key(self.seed, i), tuple(rows), triples, paired)

    def partners(
        self, rng: np.random.Generator, row: int, anchor: Int64[np.ndarray, "3"]
    ) -> list[tuple[int, Int64[np.ndarray, "3"]]]:
        """Rows and corners of other scans for a crop of `row` at `anchor`, as the pairing wants them, in random order.

        None where the pairing asks for no second scan, or there is none among the sampler's rows.
        """
        if self.views.pairing == "session":
            return self._same_region(rng, row, anchor)
        return self._same_place(rng, row, anchor) if self.views.pairing == "subject" else []

    def _row(self, sample: int, attempt: int) -> int:
        i = sample // self.crops_per_scan
        if self._cumulative is not None:
            draw = numpy_generator(self.seed, i, f"scan/{attempt}" if attempt else "scan").random()
            position = int(np.searchsorted(self._cumulative, draw * self._cumulative[-1], side="right"))
        elif attempt:
            position = int(numpy_generator(self.seed, sample, f"scan/{attempt}").integers(len(self.rows)))
        else:
            epoch, place = divmod(i, len(self.rows))
            position = permute(place, len(self.rows), sample_key(self.seed, epoch, "order"))
        return int(self.rows[position])

    def _draw_origin(self, rng: np.random.Generator, row: int) -> Int64[np.ndarray, "3"]:
        low, high = self._origins(row)
        return rng.integers(low, high, endpoint=True)

    def _overlapping(
        self, rng: np.random.Generator, row: int, anchor: Int64[np.ndarray, "3"]
    ) -> list[Int64[np.ndarray, "3"]]:
        """Corners, the anchor first, whose crops all share a part of a crop's volume drawn from min_overlap .. 1.

        The second corner lies as far off as the shared part f allows, the others between the two. Each axis spends a
        share w of it (sum w = 1), reach = crop * (1 - f ** w), so that prod(1 - reach / crop) = f, or more where
        voxels or the end of the volume cut the reach short.
        """
        crop = np.array(self.crop)
        shared = rng.uniform(self.views.min_overlap, 1.0)
        reach = np.floor(crop * (1.0 - shared ** rng.dirichlet(np.ones(3)))).astype(np.int64)
        low, high = self._origins(row)
        step = reach * rng.choice([-1, 1], 3)
        has_room = (low <= anchor + step) & (anchor + step <= high)
        far = np.clip(anchor + np.where(has_room, step, -step), low, high)
        ends = np.minimum(anchor, far), np.maximum(anchor, far)
        return [anchor, far, *(rng.integers(*ends, endpoint=True) for _ in range(self.views.n - 2))]

    def _same_region(
        self, rng: np.random.Generator, row: int, anchor: Int64[np.ndarray, "3"]
    ) -> list[tuple[int, Int64[np.ndarray, "3"]]]:
        """Other sequences of the session that show the crop's centre, in random order, and the corners there."""
        half = (np.array(self.crop) - 1) / 2
        centre = apply_affine(self.index.affine[row], anchor + half)
        siblings = self.index.siblings(row)
        found = []
        for sibling in rng.permutation(siblings[self._selected[siblings]]):
            matrix = self.index.affine[sibling]
            voxel = np.linalg.solve(matrix[:, :3], centre - matrix[:, 3])
            if np.all(voxel >= self.index.box_lo[sibling]) and np.all(voxel < self.index.box_hi[sibling]):
                found.append((int(sibling), np.rint(voxel - half).astype(np.int64)))
        return found

    def _same_place(
        self, rng: np.random.Generator, row: int, anchor: Int64[np.ndarray, "3"]
    ) -> list[tuple[int, Int64[np.ndarray, "3"]]]:
        """Scans of the subject's other sessions in random order, those of the same sequence first, and the corners of
        crops at the same fraction of the foreground box: sessions share no scanner space.
        """
        others = self.index.other_sessions(row)
        others = rng.permutation(others[self._selected[others]])
        is_other = self.index.sequence[others] != self.index.sequence[row]
        box_lo, box_hi, half = self.index.box_lo, self.index.box_hi, (np.array(self.crop) - 1) / 2
        share = (anchor + half - box_lo[row]) / (box_hi[row] - box_lo[row])
        found = []
        for other in others[np.argsort(is_other, kind="stable")]:
            origin = np.rint(box_lo[other] + share * (box_hi[other] - box_lo[other]) - half).astype(np.int64)
            found.append((int(other), np.clip(origin, *self._origins(int(other)))))
        return found

    def _origins(self, row: int) -> tuple[Int64[np.ndarray, "3"], Int64[np.ndarray, "3"]]:
        return origin_range(self.index.shape[row], self.crop, self.index.box_lo[row], self.index.box_hi[row])


def apply_affine(affine: Float[np.ndarray, "3 4"], point: Float[np.ndarray, "3"]) -> Float[np.ndarray, "3"]:
    """A voxel position in mm."""
    position: Float[np.ndarray, "3"] = affine[:, :3] @ point + affine[:, 3]
    return position


def origin_range(
    shape: Int64[np.ndarray, "3"], crop: Triple, box_lo: Int64[np.ndarray, "3"], box_hi: Int64[np.ndarray, "3"]
) -> tuple[Int64[np.ndarray, "3"], Int64[np.ndarray, "3"]]:
    """Lowest and highest corner, both included, of crops inside the volume whose centre lies in the foreground box.

    Along an axis where the volume is smaller than the crop there is one corner, which centres the volume; where the
    box lies at the edge of the volume, the nearest crop inside the volume.
    """
    size = np.array(crop)
    slack = shape - size
    low = np.clip(box_lo - size // 2, 0, np.maximum(slack, 0))
    high = np.clip(box_hi - 1 - size // 2, low, np.maximum(slack, low))
    centred = -((size - shape) // 2)
    return np.where(slack > 0, low, centred), np.where(slack > 0, high, centred)


def permute(position: int, n: int, key: int) -> int:
    """Where a keyed permutation of range(n) sends `position`, without a table.

    A Feistel network permutes the smallest range of 4^h numbers that holds n; results outside range(n) are sent
    through again until they fall inside (cycle walking; Black and Rogaway 2002, doi 10.1007/3-540-45760-7_9).
    """
    half = max(1, ((n - 1).bit_length() + 1) // 2)
    low_bits = (1 << half) - 1
    round_keys = [mix((key + i) & _MASK64) for i in range(_ROUNDS)]
    while True:
        left, right = position >> half, position & low_bits
        for round_key in round_keys:
            left, right = right, left ^ (mix(round_key ^ right) & low_bits)
        position = left << half | right
        if position < n:
            return position
