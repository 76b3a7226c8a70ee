"""Bootstrap over subjects: 95 % intervals and paired differences (Efron and Tibshirani 1993, percentile method)."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from fomo_ssl.core.seeding import numpy_generator

RESAMPLES = 10_000
_CHUNK = 500
"""Resamples drawn at once. It decides which numbers are drawn for what, so another value gives other intervals."""

Statistic = Callable[[Float[np.ndarray, "r n"]], Float[np.ndarray, " r"]]
"""Numbers from weights of the cases, one a row of weights: how often each case was drawn."""


@dataclass(frozen=True)
class Interval:
    """An estimate and its interval; `n` counts subjects. Limits are nan where the statistic is undefined."""

    value: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def resampled_weights(
    subjects: Sequence[str],
    strata: Sequence[object] | None = None,
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
    stream: str = "bootstrap",
) -> Iterator[Float[np.ndarray, "r n"]]:
    """How often each case comes under resampling of subjects with replacement, in pieces of a few hundred resamples.

    All cases of a subject come equally often. With `strata` (one value a case, such as the class) subjects are drawn
    within the stratum of their first case, so that every resample holds every class.

    Args:
        subjects: subject of each of the n cases.
        stream: another name gives other draws under the same seed.
    """
    names, first, subject_of = np.unique(np.asarray(subjects), return_index=True, return_inverse=True)
    groups: dict[object, list[int]] = {}
    for subject in np.argsort(first):
        groups.setdefault(None if strata is None else strata[int(first[subject])], []).append(int(subject))
    generator = numpy_generator(seed, stream=stream)
    for start in range(0, resamples, _CHUNK):
        rows = min(_CHUNK, resamples - start)
        counts = np.zeros((rows, len(names)))
        for group in groups.values():
            size = len(group)
            cells = generator.integers(size, size=(rows, size)) + size * np.arange(rows)[:, None]
            counts[:, group] = np.bincount(cells.ravel(), minlength=rows * size).reshape(rows, size)
        yield counts[:, subject_of]


def bootstrap_interval(
    statistic: Statistic,
    subjects: Sequence[str],
    *,
    strata: Sequence[object] | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
    level: float = 0.95,
) -> Interval:
    """The statistic of all cases with its percentile interval; resamples where it is undefined (nan) are left out.

    Raises:
        ValueError: there are no cases.
    """
    if not subjects:
        raise ValueError("an interval needs at least one case")
    pieces = [statistic(weights) for weights in resampled_weights(subjects, strata, seed=seed, resamples=resamples)]
    draws = np.concatenate(pieces)
    finite = draws[np.isfinite(draws)]
    tail = (1.0 - level) / 2.0
    low, high = np.quantile(finite, [tail, 1.0 - tail]) if len(finite) else (float("nan"), float("nan"))
    value = statistic(np.ones((1, len(subjects))))[0]
    return Interval(float(value), float(low), float(high), len(set(subjects)))


def paired_difference(
    first: Statistic,
    second: Statistic,
    subjects: Sequence[str],
    *,
    strata: Sequence[object] | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Interval:
    """`first` minus `second` over the same subjects: both are computed on the same resamples."""
    return bootstrap_interval(
        lambda weights: first(weights) - second(weights), subjects, strata=strata, seed=seed, resamples=resamples
    )
