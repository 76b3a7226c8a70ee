"""The ranking of FOMO25: methods are ranked by each metric of a task; ranks are averaged over metrics, then tasks."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int


@dataclass(frozen=True)
class Contest:
    """The methods that were tested on one task in one setting.

    Attributes:
        task: settings of one task are averaged before tasks are, so that each task counts the same.
        methods: names.
        scores: (metrics, resamples, methods), greater is better; nan, an undefined score, is worse than any other.
    """

    task: str
    methods: Sequence[str]
    scores: Float[np.ndarray, "k r m"]


@dataclass(frozen=True)
class Standing:
    """Ranks of all methods.

    Attributes:
        methods: names, in the order of the arrays' last axis.
        by_contest: (contests, resamples, methods), mean of the ranks by each metric.
        overall: (resamples, methods), mean over tasks.
    """

    methods: Sequence[str]
    by_contest: Float[np.ndarray, "c r m"]
    overall: Float[np.ndarray, "r m"]


def rank(contests: Sequence[Contest]) -> Standing:
    """Rank methods over contests; one that is missing in a contest gets the number of methods there + 1."""
    methods = list(dict.fromkeys(name for contest in contests for name in contest.methods))
    resamples = contests[0].scores.shape[1]
    ranks = np.empty((len(contests), resamples, len(methods)))
    for i, contest in enumerate(contests):
        ranks[i] = len(contest.methods) + 1.0
        columns = [methods.index(name) for name in contest.methods]
        ranks[i][:, columns] = np.mean([places(-scores) for scores in contest.scores], axis=0)
    tasks = list(dict.fromkeys(contest.task for contest in contests))
    of_task = [ranks[[contest.task == task for contest in contests]].mean(axis=0) for task in tasks]
    return Standing(methods, ranks, np.mean(of_task, axis=0))


def places(values: Float[np.ndarray, "r m"]) -> Int[np.ndarray, "r m"]:
    """Places in each row from 1 for the smallest; equal values share the better place, nan comes last.

    So do the tables of FOMO25, which are reproduced to the digit only this way.
    """
    known = np.where(np.isnan(values), np.inf, values)
    better: np.ndarray = (known[:, None, :] < known[:, :, None]).sum(axis=2)
    return 1 + better


def place_shares(overall: Float[np.ndarray, "r m"]) -> Float[np.ndarray, "m p"]:
    """How often each method takes each place, as a share of the resamples; methods that are equal divide theirs."""
    # Means of the same ranks in another order differ by rounding.
    ranks = np.round(overall, 9)
    first = places(ranks)
    alike = (ranks[:, None, :] == ranks[:, :, None]).sum(axis=2)
    place = np.arange(1, overall.shape[1] + 1)
    inside = (place >= first[..., None]) & (place < (first + alike)[..., None])
    shares: np.ndarray = (inside / alike[..., None]).mean(axis=0)
    return shares
