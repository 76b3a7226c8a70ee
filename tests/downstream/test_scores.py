from dataclasses import replace

import numpy as np
import pytest

from fomo_ssl.core.errors import RunError
from fomo_ssl.downstream.metrics import METRICS, auroc, macro_auroc, mae
from fomo_ssl.downstream.permutation import mean_of
from fomo_ssl.downstream.scores import (
    Predictions,
    by_dataset,
    concatenate,
    differences,
    ensemble,
    intervals,
    of_dataset,
    p_values,
    read_csv,
    to_csv,
)


def table(kind: str, shift: float = 0.0, count: int = 12) -> Predictions:
    generator = np.random.default_rng(3)
    target = np.arange(count) % 2 if kind == "classification" else 50 + 5 * generator.normal(size=count)
    columns = {"target": target.astype(float), "prediction": target + generator.normal(size=count) + shift}
    if kind == "segmentation":
        columns = {name: generator.uniform(0.5, 0.9, count) + shift for name in ("dice", "surface_dice", "dice_1")}
    names = tuple(f"sub_{i:02d}" for i in range(count))
    return Predictions(kind, names, names, tuple("AB"[i % 3 == 0] for i in range(count)), columns)


@pytest.mark.parametrize("kind", ["segmentation", "classification", "regression"])
def test_csv_gives_back_the_same_numbers(kind, tmp_path):
    whole = table(kind)
    (tmp_path / "predictions.csv").write_text(to_csv(whole))
    again = read_csv(tmp_path / "predictions.csv", kind)
    assert (again.cases, again.subjects, again.datasets) == (whole.cases, whole.subjects, whole.datasets)
    assert all(np.array_equal(again.columns[name], column) for name, column in whole.columns.items())


def test_any_name_survives_the_file(tmp_path):
    names = ("a\u2028b", 'c,"d"', "e\nf")
    whole = Predictions("regression", names, names, names, {"target": np.zeros(3), "prediction": np.ones(3)})
    (tmp_path / "predictions.csv").write_text(to_csv(whole))
    again = read_csv(tmp_path / "predictions.csv", "regression")
    assert (again.cases, again.subjects, again.datasets) == (names, names, names)


def test_damaged_csv_is_an_error(tmp_path):
    (tmp_path / "predictions.csv").write_text("case,subject,dataset,dice\nsub_1,sub_1,,high\n")
    with pytest.raises(RunError, match="no table of predictions"):
        read_csv(tmp_path / "predictions.csv", "segmentation")


def test_metrics_are_those_of_the_metrics_module():
    ages, classes = table("regression"), table("classification")
    assert ages.metric("mae") == mae(ages.columns["prediction"], ages.columns["target"])
    assert classes.metric("auroc") == auroc(classes.columns["prediction"], classes.columns["target"])
    three = {f"probability_{k}": np.random.default_rng(k).uniform(size=12) for k in range(3)}
    columns = {"target": np.arange(12.0) % 3, "prediction": np.zeros(12), **three}
    multi = Predictions("classification", classes.cases, classes.subjects, classes.datasets, columns)
    assert multi.metric("auroc") == macro_auroc(np.stack(list(three.values()), axis=1), columns["target"])


@pytest.mark.parametrize("kind", ["segmentation", "classification", "regression"])
def test_a_row_without_a_number_leaves_scores_undefined(kind):
    whole = table(kind)
    columns = {name: column.copy() for name, column in whole.columns.items()}
    for name in set(columns) - {"target"}:
        columns[name][3] = np.nan
    broken = Predictions(kind, whole.cases, whole.subjects, whole.datasets, columns)
    for name in whole.metrics:
        assert np.isfinite(whole.metric(name))
        assert np.isnan(broken.metric(name))
        assert np.isnan([intervals([broken], [name])[name].value, intervals([broken], [name])[name].low]).all()
    assert np.isnan(list(p_values([broken], [whole]).values())).all()


def test_tables_from_before_have_the_metrics_they_hold():
    old = table("segmentation")
    assert old.metrics == ("dice", "surface_dice")
    columns = old.columns | {"volume_error": np.ones(12)}
    new = Predictions("segmentation", old.cases, old.subjects, old.datasets, columns)
    assert new.metrics == ("dice", "surface_dice", "volume_error")
    assert table("classification").metrics == ("auroc", "average_precision", "balanced_accuracy", "brier", "ece")


@pytest.mark.parametrize("kind", ["segmentation", "classification", "regression"])
def test_what_is_tested_is_the_difference_of_the_scores(kind):
    first, second = [table(kind, 0.1), table(kind, 0.3)], [table(kind)] * 2
    for name in METRICS[kind]:
        contrast = mean_of([own.contrast(other, name) for own, other in zip(first, second, strict=True)])
        assert contrast(np.ones((1, 12)))[0] == pytest.approx(differences(first, second)[name].value)
        assert contrast(-np.ones((1, 12)))[0] == pytest.approx(-differences(first, second)[name].value)
    assert set(p_values(first, second)) == set(METRICS[kind])


def test_three_classes_are_tested_by_the_mean_of_their_areas():
    generator = np.random.default_rng(8)
    names = tuple(map(str, range(15)))
    both = []
    for _ in range(2):
        outputs = generator.dirichlet([1.0] * 3, size=15)
        columns = {"target": np.arange(15.0) % 3, "prediction": outputs.argmax(axis=1).astype(float)}
        columns |= {f"probability_{k}": outputs[:, k] for k in range(3)}
        both.append(Predictions("classification", names, names, ("",) * 15, columns))
    first, second = both
    contrast = first.contrast(second, "auroc")
    assert contrast(np.ones((1, 15)))[0] == pytest.approx(first.metric("auroc") - second.metric("auroc"))
    assert first.metric("auroc") != second.metric("auroc")


def test_seeds_are_averaged_and_the_twin_is_paired():
    better, worse = [table("segmentation", 0.1), table("segmentation", 0.12)], [table("segmentation")] * 2
    found = differences(better, worse)["dice"]
    assert found.value == pytest.approx(0.11)
    assert found.high - found.low < 1e-9
    assert intervals(better)["dice"].value == pytest.approx(table("segmentation").metric("dice") + 0.11)


def test_arms_with_other_cases_are_refused():
    with pytest.raises(RunError, match="different cases"):
        differences([table("regression")], [table("regression", count=11)])


def test_results_within_each_dataset():
    whole = table("regression")
    groups = by_dataset([whole])
    assert sorted(groups) == ["A", "B"]
    assert groups["B"]["mae"].n == whole.datasets.count("B")
    assert by_dataset([of_dataset(whole, "A")]) == {}


def test_folds_become_one_table():
    whole = table("regression")
    parts = [whole.take([5, 3, 1]), whole.take([0, 2, 4, 6, 7, 8, 9, 10, 11])]
    assert to_csv(concatenate(parts)) == to_csv(whole)


def test_an_ensemble_is_the_mean_of_what_its_members_say():
    one, two = table("regression"), table("regression")
    two = replace(two, columns=two.columns | {"prediction": two.columns["prediction"] + 3.0})
    np.testing.assert_allclose(ensemble([one, two]).columns["prediction"], one.columns["prediction"] + 1.5)
    np.testing.assert_array_equal(ensemble([one, two]).columns["target"], one.columns["target"])
    # Each member alone says 0 or 2, both together 1.
    target = np.zeros(12)
    members = []
    for first, third in ((0.55, 0.0), (0.0, 0.55)):
        shares = {"probability_0": first, "probability_1": 0.45, "probability_2": third}
        columns = {"target": target, "prediction": np.full(12, 0.0 if first else 2.0)}
        columns |= {name: np.full(12, share) for name, share in shares.items()}
        members.append(replace(one, kind="classification", columns=columns))
    together = ensemble(members)
    np.testing.assert_allclose(together.probabilities, np.tile([0.275, 0.45, 0.275], (12, 1)))
    assert set(together.columns["prediction"]) == {1.0}


def test_tables_of_masks_or_of_other_cases_make_no_ensemble():
    with pytest.raises(ValueError, match="masks"):
        ensemble([table("segmentation")] * 2)
    with pytest.raises(RunError, match="different cases"):
        ensemble([table("regression"), table("regression").take([1, 0])])
