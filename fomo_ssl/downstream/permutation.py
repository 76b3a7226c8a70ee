"""Is a method better than its twin? The paired permutation test over subjects, and Holm's correction.

Under the null hypothesis the two predictions of a subject may change places. Every sign vector swaps some subjects;
p is the share of sign vectors whose difference is at least as large as the one observed, on either side.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
from jaxtyping import Float, Num

from fomo_ssl.core.seeding import numpy_generator
from fomo_ssl.downstream.metrics import Labels

PERMUTATIONS = 100_000
_CHUNK = 2_000
"""Sign vectors drawn at once. It decides which are drawn, so another value gives another p in its last digits."""

Contrast = Callable[[Float[np.ndarray, "m n"]], Float[np.ndarray, " m"]]
"""Differences of two methods from signs of the cases, one a row: at -1 the methods' predictions are swapped."""


def sign_flip_tests(
    contrasts: Mapping[str, Contrast], subjects: Sequence[str], *, seed: int = 0, permutations: int = PERMUTATIONS
) -> dict[str, float]:
    """Two-sided p of each contrast; all cases of a subject are swapped together, and all contrasts see the same swaps.

    With 2^subjects up to `permutations` all sign vectors are looked at and p is exact; else `permutations` are drawn
    and p = (b + 1) / (m + 1), which is never 0 (Phipson and Smyth 2010, arXiv 1603.05766). p is nan where the observed
    difference is; a swap that leaves a difference undefined counts as at least as large.
    """
    draws: dict[str, list[np.ndarray]] = {name: [] for name in contrasts}
    subject_of = np.unique(np.asarray(subjects), return_inverse=True)[1]
    count = int(subject_of.max()) + 1
    exact = 2**count <= permutations
    signs = _all_signs(count) if exact else _drawn_signs(count, seed, permutations)
    for piece in signs:
        of_cases = piece[:, subject_of].astype(np.float64)
        for name, contrast in contrasts.items():
            draws[name].append(contrast(of_cases))
    unswapped = np.ones((1, len(subject_of)))
    return {
        name: _p_value(float(contrast(unswapped)[0]), np.concatenate(draws[name]), exact)
        for name, contrast in contrasts.items()
    }


def holm(p: Sequence[float]) -> list[float]:
    """p values that hold for the whole family (Holm 1979): below 0.05, 5 % of families hold a false one.

    A nan stays nan and does not belong to the family.
    """
    values = np.asarray(p, np.float64)
    known = np.flatnonzero(np.isfinite(values))
    order = known[np.argsort(values[known], kind="stable")]
    adjusted = np.full(len(values), np.nan)
    adjusted[order] = np.minimum(np.maximum.accumulate(values[order] * np.arange(len(order), 0, -1)), 1.0)
    return [float(value) for value in adjusted]


def mean_contrast(first: Num[np.ndarray, " n"], second: Num[np.ndarray, " n"]) -> Contrast:
    """Difference of two means over the same cases."""
    return _linear((first - second) / len(first))


def auroc_contrast(first: Num[np.ndarray, " n"], second: Num[np.ndarray, " n"], labels: Labels) -> Contrast:
    """Difference of two areas under the ROC curve, whose scores are swapped as ranks.

    AUROC knows no scale, so that scores of two models are compared by their ranks (Venkatraman and Begg 1996).
    The area counts pairs of a positive and a negative. In the difference of the swapped and the counter-swapped area,
    the parts of a pair that both signs or none decide cancel: it is linear in the signs.
    """
    from scipy.stats import rankdata

    positive = np.asarray(labels).astype(bool)
    n_positive, n_negative = int(positive.sum()), int((~positive).sum())
    if not n_positive or not n_negative or not np.isfinite([first, second]).all():
        return _linear(np.full(len(positive), np.nan))
    ranks = [rankdata(first), rankdata(second)]
    won = [[_wins(above[positive], below[~positive]) for below in ranks] for above in ranks]
    # won[a][b]: pairs in which the positive takes its score from method a, the negative from b.
    pairs = 2.0 * n_positive * n_negative
    part = np.empty(len(positive))
    part[positive] = (won[0][0] + won[0][1] - won[1][0] - won[1][1]).sum(axis=1) / pairs
    part[~positive] = (won[0][0] - won[0][1] + won[1][0] - won[1][1]).sum(axis=0) / pairs
    return _linear(part)


def pearson_contrast(
    first: Num[np.ndarray, " n"], second: Num[np.ndarray, " n"], target: Num[np.ndarray, " n"]
) -> Contrast:
    """Difference of two correlations with the same target; predictions are swapped at mean 0 and deviation 1."""
    if np.ptp(first) == 0 or np.ptp(second) == 0 or np.ptp(target) == 0:
        return _linear(np.full(len(target), np.nan))
    a, b, t = ((values - np.mean(values)) / np.std(values) for values in (first, second, target))
    middle, half, n = (a + b) / 2.0, (a - b) / 2.0, len(t)

    def correlation(signs: Float[np.ndarray, "m n"]) -> Float[np.ndarray, " m"]:
        mean = (middle.sum() + signs @ half) / n
        square = ((middle**2 + half**2).sum() + 2.0 * signs @ (middle * half)) / n
        spread = np.sqrt(np.maximum(square - mean**2, 0.0))
        product = ((middle * t).sum() + signs @ (half * t)) / n
        r: np.ndarray = np.divide(product, spread, out=np.full(len(signs), np.nan), where=spread > 1e-6)
        return r

    return lambda signs: correlation(signs) - correlation(-signs)


def mean_of(contrasts: Sequence[Contrast]) -> Contrast:
    """The mean of contrasts, such as those of several seeds: a subject is swapped in all of them."""
    return lambda signs: np.mean([contrast(signs) for contrast in contrasts], axis=0)


def _linear(parts: Float[np.ndarray, " n"]) -> Contrast:
    return lambda signs: signs @ parts


def _wins(above: np.ndarray, below: np.ndarray) -> Float[np.ndarray, "p q"]:
    """1 where a value of `above` exceeds one of `below`, 1/2 where they are equal."""
    wins: np.ndarray = (above[:, None] > below) + 0.5 * (above[:, None] == below)
    return wins


def _all_signs(count: int) -> Iterator[np.ndarray]:
    for start in range(0, 2**count, _CHUNK):
        numbers = np.arange(start, min(start + _CHUNK, 2**count))
        yield 1 - 2 * ((numbers[:, None] >> np.arange(count)) & 1)


def _drawn_signs(count: int, seed: int, permutations: int) -> Iterator[np.ndarray]:
    generator = numpy_generator(seed, stream="sign flips")
    for start in range(0, permutations, _CHUNK):
        yield 1 - 2 * generator.integers(0, 2, size=(min(_CHUNK, permutations - start), count), dtype=np.int8)


def _p_value(observed: float, draws: np.ndarray, exact: bool) -> float:
    if not np.isfinite(observed):
        return float("nan")
    sizes = np.where(np.isfinite(draws), np.abs(draws), np.inf)
    # Differences that are equal but for rounding are equal.
    finite = sizes[np.isfinite(sizes)]
    slack = 1e-9 * max(abs(observed), float(finite.max(initial=0.0)))
    hits = int(np.count_nonzero(sizes >= abs(observed) - slack))
    return hits / len(draws) if exact else (hits + 1) / (len(draws) + 1)
