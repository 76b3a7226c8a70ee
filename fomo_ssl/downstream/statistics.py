"""Bootstrap over subjects: 95 % intervals and paired differences (Efron and Tibshirani 1993, percentile method)."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from fomo_ssl.core.seeding import numpy_generator

Statistic = Callable[[np.ndarray], float]
"""A number from the positions of the chosen cases; a position may come several times."""


@dataclass(frozen=True)
class Interval:
    """An estimate and its interval; `n` counts subjects. Limits are nan where the statistic is undefined."""

    value: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def resampled_cases(
    subjects: Sequence[str], strata: Sequence[object] | None, *, seed: int, resamples: int
) -> Iterator[np.ndarray]:
    """Positions of cases under resampling of subjects with replacement, all cases of a subject together.

    With `strata` (one value a case, such as the class) subjects are drawn within the stratum of their first case, so
    that every resample holds every class.
    """
    cases_of: dict[str, list[int]] = {}
    for position, subject in enumerate(subjects):
        cases_of.setdefault(subject, []).append(position)
    groups: dict[object, list[np.ndarray]] = {}
    for cases in cases_of.values():
        groups.setdefault(None if strata is None else strata[cases[0]], []).append(np.asarray(cases))
    generator = numpy_generator(seed, stream="bootstrap")
    sizes = [len(group) for group in groups.values()]
    chosen = [generator.integers(size, size=(resamples, size)) for size in sizes]
    if len(cases_of) == len(subjects):
        # One case a subject, the usual thing: positions by one lookup.
        positions = [np.concatenate(group) for group in groups.values()]
        drawn = [members[picks] for members, picks in zip(positions, chosen, strict=True)]
        yield from np.concatenate(drawn, axis=1)
        return
    for picks in zip(*chosen, strict=True):
        pairs = zip(groups.values(), picks, strict=True)
        yield np.concatenate([group[i] for group, which in pairs for i in which])


def bootstrap_interval(
    statistic: Statistic,
    subjects: Sequence[str],
    *,
    strata: Sequence[object] | None = None,
    seed: int = 0,
    resamples: int = 2000,
    level: float = 0.95,
) -> Interval:
    """The statistic of all cases with its percentile interval; resamples where it is undefined (nan) are left out.

    Raises:
        ValueError: there are no cases.
    """
    if not subjects:
        raise ValueError("an interval needs at least one case")
    draws = [statistic(cases) for cases in resampled_cases(subjects, strata, seed=seed, resamples=resamples)]
    finite = np.asarray(draws)[np.isfinite(draws)]
    tail = (1.0 - level) / 2.0
    low, high = np.quantile(finite, [tail, 1.0 - tail]) if len(finite) else (float("nan"), float("nan"))
    value = statistic(np.arange(len(subjects)))
    return Interval(float(value), float(low), float(high), len(set(subjects)))


def paired_difference(
    first: Statistic,
    second: Statistic,
    subjects: Sequence[str],
    *,
    strata: Sequence[object] | None = None,
    seed: int = 0,
    resamples: int = 2000,
) -> Interval:
    """`first` minus `second` over the same subjects: both are computed on the same resamples."""
    return bootstrap_interval(
        lambda cases: first(cases) - second(cases), subjects, strata=strata, seed=seed, resamples=resamples
    )
