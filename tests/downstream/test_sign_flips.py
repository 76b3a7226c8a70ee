import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import permutation_test, rankdata, zscore

from fomo_ssl.downstream.metrics import auroc, pearson
from fomo_ssl.downstream.permutation import (
    Contrast,
    auroc_contrast,
    holm,
    mean_contrast,
    mean_of,
    pearson_contrast,
    sign_flip_tests,
)


def names(count: int) -> list[str]:
    return [f"sub_{i}" for i in range(count)]


def p_of(contrast: Contrast, subjects: list[str], **options: int) -> float:
    return sign_flip_tests({"x": contrast}, subjects, **options)["x"]


def swapped(first: np.ndarray, second: np.ndarray, signs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The slow way: change places one case after another."""
    pairs = [(a, b) if sign > 0 else (b, a) for a, b, sign in zip(first, second, signs, strict=True)]
    return np.array([a for a, _ in pairs]), np.array([b for _, b in pairs])


def some_signs(count: int) -> np.ndarray:
    return np.concatenate([np.ones((1, count)), np.random.default_rng(0).choice([-1.0, 1.0], (30, count))])


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10**6))
def test_difference_of_areas_is_that_of_swapped_ranks(seed):
    generator = np.random.default_rng(seed)
    first, second = np.round(generator.uniform(size=(2, 9)), 1)
    labels = generator.permutation([0, 0, 0, 1, 1, 1, 1, *generator.integers(0, 2, 2)])
    contrast, ranks = auroc_contrast(first, second, labels), (rankdata(first), rankdata(second))
    for signs in some_signs(9):
        a, b = swapped(*ranks, signs)
        assert contrast(signs[None])[0] == pytest.approx(auroc(a, labels) - auroc(b, labels))
    # Unswapped, ranks change nothing.
    assert contrast(np.ones((1, 9)))[0] == pytest.approx(auroc(first, labels) - auroc(second, labels))


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10**6))
def test_difference_of_correlations_is_that_of_swapped_predictions(seed):
    first, second, target = np.random.default_rng(seed).normal(50, 20, (3, 9))
    contrast, scaled = pearson_contrast(first, second, target), (zscore(first), zscore(second))
    for signs in some_signs(9):
        a, b = swapped(*scaled, signs)
        assert contrast(signs[None])[0] == pytest.approx(pearson(a, target) - pearson(b, target))
    assert contrast(np.ones((1, 9)))[0] == pytest.approx(pearson(first, target) - pearson(second, target))


@pytest.mark.parametrize("count", [3, 8, 13])
def test_exact_p_is_that_of_scipy(count):
    generator = np.random.default_rng(count)
    first, second = generator.normal(size=(2, count)) + np.array([[0.5], [0.0]])
    theirs = permutation_test(
        (first, second), lambda a, b: np.mean(a - b), permutation_type="samples", n_resamples=np.inf
    ).pvalue
    assert p_of(mean_contrast(first, second), names(count)) == pytest.approx(theirs, abs=1e-12)


def test_exact_p_counts_sign_vectors():
    difference = np.array([3.0, 2.0, -1.0, 0.5])
    sums = [abs(np.dot(signs, difference)) for signs in itertools.product((1, -1), repeat=4)]
    expected = np.mean(np.array(sums) >= abs(difference.sum()) - 1e-12)
    assert p_of(mean_contrast(difference, np.zeros(4)), names(4)) == expected


def test_drawn_p_is_that_of_scipy_and_never_zero():
    generator = np.random.default_rng(7)
    first, second = generator.normal(size=(2, 25)) + np.array([[0.4], [0.0]])
    ours = p_of(mean_contrast(first, second), names(25))
    theirs = permutation_test(
        (first, second), lambda a, b, axis: np.mean(a - b, axis=axis), permutation_type="samples",
        n_resamples=100_000, vectorized=True, batch=10_000, rng=1,
    ).pvalue  # fmt: skip
    # Two draws of 100,000: five standard errors of their difference.
    assert ours == pytest.approx(theirs, abs=5 * math.sqrt(2 * theirs / 100_000))
    assert 0.01 < ours < 0.5
    # 2^30 sign vectors, two of which are as extreme: none is met, and p says how many were looked at.
    assert p_of(mean_contrast(np.ones(30), np.zeros(30)), names(30)) == 1 / 100_001


def test_the_choice_between_all_and_drawn_is_by_number():
    difference = np.random.default_rng(3).normal(size=10)
    contrast = mean_contrast(difference, np.zeros(10))
    exact, drawn = (p_of(contrast, names(10), permutations=n) for n in (1024, 1023))
    assert exact * 1024 == round(exact * 1024)
    assert drawn * 1024 == round(drawn * 1024)
    assert exact == p_of(contrast, names(10), permutations=1024, seed=1)
    assert drawn != p_of(contrast, names(10), permutations=1023, seed=1)


def test_cases_of_a_subject_are_swapped_together():
    # Ten cases of one subject are one piece of evidence: of two sign vectors both are as extreme.
    contrast = mean_contrast(np.ones(10), np.zeros(10))
    assert p_of(contrast, ["one"] * 10) == 1.0
    assert p_of(contrast, ["one"] * 5 + ["two"] * 5) == 0.5
    assert p_of(contrast, names(10)) == 2 / 1024


def test_without_a_difference_p_is_one():
    values = np.random.default_rng(0).normal(size=12)
    assert p_of(mean_contrast(values, values), names(12)) == 1.0
    # 0.1 + 0.2 - 0.3 is not 0 in floating point.
    assert p_of(mean_contrast(np.array([0.1, 0.2, -0.3]), np.zeros(3)), names(3)) == 1.0


def test_under_the_null_hypothesis_p_below_5_percent_comes_in_5_percent():
    generator, low = np.random.default_rng(11), 0
    for _ in range(400):
        labels = generator.permutation([0] * 6 + [1] * 6)
        scores = generator.normal(size=(2, 12)) + labels
        low += p_of(auroc_contrast(*scores, labels), names(12)) <= 0.05
    assert 8 <= low <= 32


def test_seeds_are_averaged_and_swapped_together():
    one, other = (mean_contrast(np.full(4, value), np.zeros(4)) for value in (1.0, 3.0))
    signs = some_signs(4)
    assert mean_of([one, other])(signs) == pytest.approx((one(signs) + other(signs)) / 2)


def test_an_undefined_difference_has_no_p():
    rows = np.arange(6.0)
    assert math.isnan(p_of(auroc_contrast(rows, rows[::-1], np.ones(6)), names(6)))
    assert math.isnan(p_of(pearson_contrast(rows, np.full(6, 0.1), rows), names(6)))


def slow_holm(values: list[float]) -> list[float]:
    """Step down: the smallest p times their number, the next times one less …, none below the one before."""
    left = sorted(values)
    passed, adjusted = 0.0, {}
    for k, value in enumerate(left):
        passed = max(passed, min(1.0, value * (len(left) - k)))
        adjusted.setdefault(value, passed)
    return [adjusted[value] for value in values]


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(0, 100).map(lambda n: n / 100), max_size=12))
def test_holm_is_that_of_the_definition(values):
    assert holm(values) == pytest.approx(slow_holm(values))


def test_holm_on_a_worked_example():
    # Holm 1979's procedure on p = 0.01, 0.04, 0.03, 0.005.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_undefined_p_values_do_not_belong_to_the_family():
    first, second, third = holm([0.02, math.nan, 0.03])
    assert [first, third] == pytest.approx([0.04, 0.04])
    assert math.isnan(second)


def test_holm_holds_the_error_of_the_family():
    generator = np.random.default_rng(4)
    false = sum(min(holm(list(generator.uniform(size=8)))) <= 0.05 for _ in range(2000))
    assert 60 <= false <= 140
