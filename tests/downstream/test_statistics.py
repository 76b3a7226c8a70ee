import numpy as np
import pytest

from fomo_ssl.downstream.statistics import bootstrap_interval, paired_difference, resampled_cases


def names(count: int) -> list[str]:
    return [f"sub_{i}" for i in range(count)]


def test_interval_of_a_mean_is_about_that_of_the_normal_theory():
    values = np.random.default_rng(0).normal(size=200)
    interval = bootstrap_interval(lambda rows: float(values[rows].mean()), names(200))
    half = 1.96 * values.std() / np.sqrt(200)
    assert interval.value == values.mean()
    assert interval.low == pytest.approx(values.mean() - half, abs=0.03)
    assert interval.high == pytest.approx(values.mean() + half, abs=0.03)


def test_same_seed_same_interval_and_other_seed_another():
    values = np.arange(20.0)
    one, same, other = (bootstrap_interval(lambda r: float(values[r].mean()), names(20), seed=s) for s in (0, 0, 1))
    assert one == same
    assert one != other


def test_cases_of_a_subject_are_drawn_together():
    subjects = ["a", "a", "a", "b", "b", "c"]
    for rows in resampled_cases(subjects, None, seed=0, resamples=50):
        drawn = [subjects[row] for row in rows]
        assert drawn.count("a") % 3 == 0
        assert drawn.count("b") % 2 == 0


def test_strata_keep_their_size():
    classes = [0, 0, 0, 1, 1]
    for rows in resampled_cases(names(5), classes, seed=0, resamples=50):
        assert [classes[row] for row in rows].count(1) == 2


def test_interval_covers_as_often_as_it_says():
    generator, hits = np.random.default_rng(1), 0
    for trial in range(60):
        values = generator.normal(size=40)
        interval = bootstrap_interval(lambda r, v=values: float(v[r].mean()), names(40), seed=trial, resamples=200)
        hits += interval.low <= 0.0 <= interval.high
    assert hits >= 50


def test_paired_difference_is_narrower_than_its_arms():
    generator = np.random.default_rng(2)
    twin = generator.normal(size=50)
    better = twin + 0.1 + 0.01 * generator.normal(size=50)
    arms = [lambda rows, v=values: float(v[rows].mean()) for values in (better, twin)]
    difference = paired_difference(*arms, names(50))
    assert 0.09 < difference.low < difference.value < difference.high < 0.11
    alone = bootstrap_interval(arms[0], names(50))
    assert difference.high - difference.low < 0.1 * (alone.high - alone.low)


def test_undefined_resamples_are_left_out():
    values = np.array([1.0, 2.0, 3.0])
    interval = bootstrap_interval(lambda r: float("nan") if len(set(r)) == 1 else float(values[r].mean()), names(3))
    assert np.isfinite([interval.low, interval.high]).all()


def test_no_cases_is_an_error():
    with pytest.raises(ValueError, match="at least one case"):
        bootstrap_interval(lambda rows: 0.0, [])
