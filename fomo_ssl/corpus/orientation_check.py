"""Which way a head seems to lie, learnt from the other scans of the corpus.

Every orientation of a scan can be read off its descriptor, so the corpus teaches a linear score of "lies like most
others": w = (S + r I)^-1 m, with m the mean descriptor and S the second moment over all scans in all 48 orientations
(Fisher's discriminant of one class against its own turned copies). A scan's stored axes are doubted when another
orientation of it scores higher. The scan's own dataset takes no part in its score, so a dataset that is wrong as a
whole is found as long as most of the others are right.

Left and right cannot be told: heads are too nearly mirror images. Orientations that differ only in that count as one.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float16, Float32, Float64, Int64

from fomo_ssl.corpus.descriptor import KEPT, orientations, reorientation

MARGIN = 0.25
"""By how many deviations of a scan's 24 scores another orientation must lead; measured in check_your_data.md."""

ENOUGH = 20
"""Subjects that a reference needs; with fewer nothing is said."""

_FOLDS = 8
_RIDGE = 0.1
_CHUNK = 4096


@dataclass(frozen=True)
class Orientations:
    """What the check says of n scans.

    Attributes:
        lead: by how much the best other orientation beats the stored one, in deviations of the scan's 24 scores;
            negative where the stored one is best, NaN where there was no reference.
        looks: letters of the directions in which the stored axes seem to run, `LR` for the axis that runs sideways,
            such as "LR P I" for a head that lies upside down and backwards.
    """

    lead: Float64[np.ndarray, "n"]
    looks: list[str]

    @property
    def doubted(self) -> np.ndarray:
        """Whether each scan's orientation is in doubt; False where nothing could be said."""
        return np.asarray(np.nan_to_num(self.lead, nan=-1.0) >= MARGIN)


def check_orientation(
    descriptor: Float16[np.ndarray, "n k"], dataset: Int64[np.ndarray, "n"], subject: Int64[np.ndarray, "n"]
) -> Orientations:
    """Compare the stored orientation of every scan with the other 23.

    Args:
        descriptor: of `corpus.descriptor`.
        dataset, subject: codes; a subject is of one dataset.
    """
    n = len(descriptor)
    fold = _folds(dataset, subject)
    # Every subject weighs the same, however many scans it has.
    weight = 1.0 / np.bincount(subject)[subject]
    moments, means = _moments(descriptor, fold, weight)
    classes, names = _classes()
    lead: np.ndarray = np.full(n, np.nan)
    looks = [""] * n
    for number in np.unique(fold):
        rest = fold != number
        if len(np.unique(subject[rest])) < ENOUGH:
            continue
        total = float(weight[rest].sum())
        reference = _solve((moments.sum(0) - moments[number]) / total, (means.sum(0) - means[number]) / total)
        for rows in np.array_split(np.flatnonzero(~rest), -(-int((~rest).sum()) // _CHUNK)):
            scores = _scores(descriptor[rows].astype(np.float32), reference, classes)
            best = scores.argmax(axis=1)
            others = np.delete(scores, 0, axis=1).max(axis=1)
            lead[rows] = (others - scores[:, 0]) / np.maximum(scores.std(axis=1), 1e-12)
            for row, kind in zip(rows.tolist(), best.tolist(), strict=True):
                looks[row] = names[kind]
    return Orientations(lead, looks)


def _folds(dataset: Int64[np.ndarray, "n"], subject: Int64[np.ndarray, "n"]) -> Int64[np.ndarray, "n"]:
    """Datasets in at most 8 folds; subjects, where some fold of datasets would leave too few others."""
    by_dataset = _balanced(dataset)
    if all(len(np.unique(subject[by_dataset != fold])) >= ENOUGH for fold in np.unique(by_dataset)):
        return by_dataset
    return _balanced(subject)


def _balanced(code: Int64[np.ndarray, "n"]) -> Int64[np.ndarray, "n"]:
    """A fold for each row: the largest groups first, each into the fold that is smallest so far."""
    sizes = np.bincount(code)
    fold_of, filled = np.zeros(len(sizes), np.int64), np.zeros(_FOLDS, np.int64)
    for group in np.argsort(-sizes, kind="stable"):
        fold_of[group] = filled.argmin()
        filled[fold_of[group]] += sizes[group]
    return np.asarray(fold_of[code])


def _moments(
    descriptor: Float16[np.ndarray, "n k"], fold: Int64[np.ndarray, "n"], weight: Float64[np.ndarray, "n"]
) -> tuple[Float64[np.ndarray, "f k k"], Float64[np.ndarray, "f k"]]:
    """Weighted sums of outer products and of descriptors for every fold, in one pass."""
    k = descriptor.shape[1]
    moments, means = np.zeros((_FOLDS, k, k)), np.zeros((_FOLDS, k))
    for number in np.unique(fold):
        rows = np.flatnonzero(fold == number)
        for part in np.array_split(rows, -(-len(rows) // _CHUNK)):
            chunk = descriptor[part].astype(np.float32)
            moments[number] += (chunk * weight[part, None].astype(np.float32)).T @ chunk
            means[number] += weight[part] @ chunk
    return moments, means


def _solve(moment: Float64[np.ndarray, "k k"], mean: Float64[np.ndarray, "k"]) -> Float32[np.ndarray, "k"]:
    """The score's weights from the second moment and the mean of upright scans."""
    turned: np.ndarray = np.zeros_like(moment)
    for order, flips in orientations():
        positions, signs = reorientation(order, flips)
        turned += moment[positions][:, positions] * np.outer(signs, signs)
    turned /= len(orientations())
    positions, signs = reorientation((0, 1, 2), (True, False, False))
    symmetric = (mean + mean[positions] * signs) / 2
    ridge = _RIDGE * float(np.trace(turned)) / KEPT**3
    weights: np.ndarray = np.linalg.solve(turned + ridge * np.eye(KEPT**3), symmetric)
    return weights.astype(np.float32)


def _scores(
    descriptor: Float32[np.ndarray, "n k"], reference: Float32[np.ndarray, "k"], classes: list[int]
) -> Float32[np.ndarray, "n 24"]:
    """The score of each of the 24 orientations: the better of its two mirror images."""
    scores: np.ndarray = np.full((len(descriptor), max(classes) + 1), -np.inf, np.float32)
    for (order, flips), kind in zip(orientations(), classes, strict=True):
        positions, signs = reorientation(order, flips)
        # The reference is turned back instead of every scan forward.
        turned: np.ndarray = np.zeros_like(reference)
        turned[positions] = reference * signs
        scores[:, kind] = np.maximum(scores[:, kind], descriptor @ turned)
    return scores


def _classes() -> tuple[list[int], list[str]]:
    """For each of the 48 orientations its number among 24, the stored one being 0, and how stored axes then run."""
    numbers: dict[str, int] = {}
    classes = []
    for order, flips in orientations():
        letters = [
            "LR" if world == 0 else ("AP"[flips[axis]], "SI"[flips[axis]])[world - 1]
            for axis, world in sorted(zip(order, range(3), strict=True))
        ]
        classes.append(numbers.setdefault(" ".join(letters), len(numbers)))
    return classes, list(numbers)
