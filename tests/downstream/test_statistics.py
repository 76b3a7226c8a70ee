import numpy as np
import pytest

from fomo_ssl.downstream import weighted
from fomo_ssl.downstream.statistics import Statistic, bootstrap_interval, paired_difference, resampled_weights


def names(count: int) -> list[str]:
    return [f"sub_{i}" for i in range(count)]


def mean_of(values: np.ndarray) -> Statistic:
    return lambda weights: weighted.mean(weights, values)


def all_weights(subjects: list[str], strata: list[int] | None = None, **options: object) -> np.ndarray:
    return np.concatenate(list(resampled_weights(subjects, strata, **options)))  # type: ignore[arg-type]


def test_interval_of_a_mean_is_about_that_of_the_normal_theory():
    values = np.random.default_rng(0).normal(size=200)
    interval = bootstrap_interval(mean_of(values), names(200))
    half = 1.96 * values.std() / np.sqrt(200)
    assert interval.value == pytest.approx(values.mean())
    assert interval.low == pytest.approx(values.mean() - half, abs=0.01)
    assert interval.high == pytest.approx(values.mean() + half, abs=0.01)


def test_interval_agrees_with_scipy():
    from scipy.stats import bootstrap

    values = np.random.default_rng(5).exponential(size=40)
    ours = bootstrap_interval(mean_of(values), names(40))
    theirs = bootstrap((values,), np.mean, n_resamples=10_000, method="percentile", rng=1).confidence_interval
    assert [ours.low, ours.high] == pytest.approx([theirs.low, theirs.high], abs=0.02)


def test_same_seed_same_interval_and_other_seed_another():
    values = np.arange(20.0)
    one, same, other = (bootstrap_interval(mean_of(values), names(20), seed=s) for s in (0, 0, 1))
    assert one == same
    assert one != other


def test_another_stream_draws_others_and_more_resamples_begin_with_the_same():
    few, many = (all_weights(names(9), resamples=n) for n in (700, 1200))
    assert np.array_equal(few[:500], many[:500])
    assert not np.array_equal(few, all_weights(names(9), resamples=700, stream="elsewhere"))


def test_cases_of_a_subject_are_drawn_together():
    subjects = ["b", "a", "a", "c", "a", "b"]
    weights = all_weights(subjects, resamples=600)
    assert np.array_equal(weights[:, 1], weights[:, 2])
    assert np.array_equal(weights[:, 1], weights[:, 4])
    assert np.array_equal(weights[:, 0], weights[:, 5])
    assert set((weights[:, 0] + weights[:, 1] + weights[:, 3]).tolist()) == {3.0}


def test_strata_keep_their_size():
    weights = all_weights(names(5), [0, 1, 0, 0, 1], resamples=600)
    assert set(weights[:, [1, 4]].sum(axis=1).tolist()) == {2.0}
    assert set(weights.sum(axis=1).tolist()) == {5.0}


def test_every_subject_is_drawn_as_often_as_any_other():
    weights = all_weights(names(6))
    assert weights.mean(axis=0) == pytest.approx(np.ones(6), abs=0.04)
    # Of a binomial with 6 draws of probability 1/6.
    assert weights.var(axis=0) == pytest.approx(np.full(6, 5 / 6), abs=0.05)


def test_interval_covers_as_often_as_it_says():
    generator, hits = np.random.default_rng(1), 0
    for trial in range(200):
        values = generator.normal(size=40)
        interval = bootstrap_interval(mean_of(values), names(40), seed=trial, resamples=500)
        hits += interval.low <= 0.0 <= interval.high
    assert 180 <= hits <= 196


def test_paired_difference_is_narrower_than_its_arms():
    generator = np.random.default_rng(2)
    twin = generator.normal(size=50)
    better = twin + 0.1 + 0.01 * generator.normal(size=50)
    difference = paired_difference(mean_of(better), mean_of(twin), names(50))
    assert 0.09 < difference.low < difference.value < difference.high < 0.11
    alone = bootstrap_interval(mean_of(better), names(50))
    assert difference.high - difference.low < 0.1 * (alone.high - alone.low)


def test_undefined_resamples_are_left_out():
    def undefined_for_one_subject(weights: np.ndarray) -> np.ndarray:
        return np.where((weights > 0).sum(axis=1) == 1, np.nan, weights @ np.arange(3.0) / 3.0)

    interval = bootstrap_interval(undefined_for_one_subject, names(3))
    assert np.isfinite([interval.low, interval.high]).all()


def test_no_cases_is_an_error():
    with pytest.raises(ValueError, match="at least one case"):
        bootstrap_interval(lambda weights: weights[:, 0], [])
