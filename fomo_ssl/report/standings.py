"""The ranking of the methods of a report, and how firm it is under resampling of the test subjects."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from fomo_ssl.downstream.metrics import HIGHER_IS_BETTER, METRICS
from fomo_ssl.downstream.ranking import Contest, place_shares, rank
from fomo_ssl.downstream.scores import mean_statistic
from fomo_ssl.downstream.statistics import resampled_weights
from fomo_ssl.report.results import Setting


@dataclass(frozen=True)
class Ranked:
    """A method in the ranking.

    Attributes:
        rank: mean over tasks; 1 is best.
        low, high: 95 % of the resamples lie between them.
        by_setting: mean of the ranks by each metric in each setting, with its name; settings of other test cases may
            have the same.
        shares: how often it takes place 1, 2, … when test subjects are drawn anew.
    """

    method: str
    rank: float
    low: float
    high: float
    by_setting: Sequence[tuple[str, float]]
    shares: Sequence[float]


def ranking(found: Sequence[Setting], *, seed: int = 0) -> list[Ranked]:
    """The ranking of FOMO25 over all settings, best first; in a resample all methods see the same subjects."""
    standing = rank([_contest(setting, seed) for setting in found])
    shares = place_shares(standing.overall[1:])
    low, high = np.quantile(standing.overall[1:], [0.025, 0.975], axis=0)
    names = [f"{setting.task}, {setting.label}" for setting in found]
    result = [
        Ranked(
            method,
            float(standing.overall[0, i]),
            float(low[i]),
            float(high[i]),
            list(zip(names, standing.by_contest[:, 0, i].tolist(), strict=True)),
            shares[i].tolist(),
        )
        for i, method in enumerate(standing.methods)
    ]
    return sorted(result, key=lambda ranked: ranked.rank)


def _contest(setting: Setting, seed: int) -> Contest:
    """The scores of a setting's methods: of all cases first, then of every resample."""
    first = setting.arms[0].seeds[0]
    # Settings of one task see the same subjects drawn; those of different tasks have nothing to do with one another.
    drawn = resampled_weights(first.subjects, first.strata(), seed=seed, stream=f"ranking {setting.task}")
    pieces = [np.ones((1, len(first))), *drawn]
    scores = [_oriented(setting, metric, pieces) for metric in METRICS[setting.kind]]
    return Contest(f"{setting.task}, {setting.kind}", [arm.method for arm in setting.arms], np.stack(scores))


def _oriented(setting: Setting, metric: str, pieces: Sequence[np.ndarray]) -> Float[np.ndarray, "r m"]:
    """A metric of every method, greater is better."""
    sign = 1.0 if HIGHER_IS_BETTER[metric] else -1.0
    columns = []
    for arm in setting.arms:
        statistic = mean_statistic(arm.seeds, metric)
        columns.append(np.concatenate([statistic(weights) for weights in pieces]))
    return sign * np.stack(columns, axis=1)
