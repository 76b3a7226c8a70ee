import numpy as np

from fomo_ssl.corpus.outliers import ENOUGH, Measure, judge


def judged(values: list[float], dataset: list[int] | None = None):
    codes = np.array(dataset or [0] * len(values))
    return judge(Measure("shape", "x", np.array(values)), codes, np.zeros(len(values), np.int64))


def test_one_strange_scan_among_equal_ones_is_an_outlier_and_a_voxel_less_is_not():
    one = judged([100.0] * 18 + [99.0, 200.0])
    assert np.flatnonzero(one.outlying).tolist() == [19]
    np.testing.assert_allclose(one.centre, 100.0)


def test_half_and_double_are_equally_far():
    far = judged([100.0] * 20 + [50.0, 200.0]).deviations
    np.testing.assert_allclose(far[20], -far[21])


def test_small_groups_and_unknown_values_are_not_judged():
    assert np.isnan(judged([1.0] * (ENOUGH - 1)).deviations).all()
    assert np.isnan(judged([1.0] * ENOUGH + [np.nan, 0.0, -1.0]).deviations[ENOUGH:]).all()


def test_a_small_dataset_of_another_kind_is_judged_more_mildly_than_a_scan_among_its_siblings():
    values, dataset = [2.0] * 30 + [1.0, 1.0], [0] * 30 + [1, 1]
    assert not judged(values, dataset).outlying.any()
    assert judged(values, [0] * 32).outlying.sum() == 2
