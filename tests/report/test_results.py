import csv
import io
import json
import math

import numpy as np
import pytest
from run_maker import RunMaker
from sklearn.metrics import roc_auc_score

from fomo_ssl.core.errors import RunError
from fomo_ssl.downstream.permutation import holm
from fomo_ssl.downstream.scores import differences, intervals, p_values
from fomo_ssl.downstream.statistics import Interval
from fomo_ssl.report import results
from fomo_ssl.report.html import number
from fomo_ssl.report.names import method_names
from fomo_ssl.report.results_table import to_csv, to_text
from fomo_ssl.report.runs import Run, find_runs, read_run
from fomo_ssl.report.standings import ranking


def test_units_are_read_and_the_unfinished_counted(make_run: RunMaker) -> None:
    path = make_run("tumour", "segmentation", skip=["shots5_seed1_scratch"])
    run = read_run(path)
    assert (len(run.units), run.unfinished, run.folds) == (7, 1, 0)
    curve = run.units[0].curve
    assert len(curve["loss"]) == 100
    assert np.isfinite(curve["validation"]).sum() == 5


def test_scores_are_those_of_downstream(make_run: RunMaker) -> None:
    runs = [read_run(make_run("infarct", "classification", shots=(4,), seeds=3))]
    found = results.settings(runs)
    arm, twin = found[0].arms
    table = results.rows(found)
    row = next(r for r in table if r.arm is arm)
    assert row.score == intervals(arm.seeds)["auroc"]
    assert row.difference == differences(arm.seeds, twin.seeds)["auroc"]
    assert row.p == p_values(arm.seeds, twin.seeds)["auroc"]
    assert {r.difference for r in table if r.arm is twin} == {None}
    assert {r.metric for r in table} == {"auroc", "average_precision", "balanced_accuracy", "brier", "ece"}


def test_the_twin_may_lie_in_runs_of_other_shots(make_run: RunMaker) -> None:
    first = make_run("first", "segmentation", task="tumour", shots=(1,), pictures=False)
    second = make_run("second", "segmentation", task="tumour", shots=(5,), pictures=False)
    alone = {"pretrained": 0.7}
    third = make_run(
        "third", "segmentation", task="tumour", shots=(1, 5), quality=alone, bundle="other/bundle", pictures=False
    )
    found = results.settings([read_run(path) for path in (first, second, third)])
    assert [setting.shots for setting in found] == [1, 5]
    for setting, twins in zip(found, (first, second), strict=True):
        arm = next(arm for arm in setting.arms if arm.run.path == third)
        twin = setting.twin(arm)
        assert twin is not None
        assert twin.run.path == twins
    splits = json.loads((third / "splits.json").read_text())
    splits[0]["test"] = splits[0]["test"][1:]
    (third / "splits.json").write_text(json.dumps(splits))
    changed = results.settings([read_run(path) for path in (first, second, third)])
    assert changed[0].twin(next(arm for arm in changed[0].arms if arm.run.path == third)) is None


def test_the_family_of_holm_is_every_tested_comparison_of_the_report(make_run: RunMaker) -> None:
    runs = [
        read_run(make_run("tumour", "segmentation", pictures=False)),
        read_run(make_run("age", "regression", folds=4, datasets=("A", "B"))),
    ]
    table = results.rows(results.settings(runs))
    tested = [row for row in table if row.p is not None]
    # Two metrics at 1 and 5 shots and two in cross-validation; nothing within datasets, bands or of further metrics.
    assert [(row.metric, row.setting.label) for row in tested] == [
        ("mae", "4-fold cross-validation"),
        ("pearson", "4-fold cross-validation"),
        ("dice", "1 shot"),
        ("surface_dice", "1 shot"),
        ("dice", "5 shots"),
        ("surface_dice", "5 shots"),
    ]
    assert all(row.overall for row in tested)
    assert [row.p_holm for row in tested] == holm([row.p for row in tested if row.p is not None])
    assert [row.holds for row in tested] == [row.p_holm is not None and row.p_holm <= 0.05 for row in tested]
    assert any(row.holds for row in tested)


def test_the_ensemble_of_the_seeds_stands_beside_their_mean(make_run: RunMaker) -> None:
    (setting,) = results.settings([read_run(make_run("infarct", "classification", shots=(4,), seeds=3))])
    table = results.rows([setting])
    together = {row.arm.init: row for row in table if row.members and row.metric == "auroc"}
    values = {}
    for arm in setting.arms:
        score = np.mean([seed.columns["prediction"] for seed in arm.seeds], axis=0)
        values[arm.init] = roc_auc_score(arm.seeds[0].columns["target"], score)
        assert together[arm.init].score.value == pytest.approx(values[arm.init])
        assert together[arm.init].score.low <= values[arm.init] <= together[arm.init].score.high
        assert together[arm.init].members == 3
    difference = together["pretrained"].difference
    assert difference is not None
    assert difference.value == pytest.approx(values["pretrained"] - values["scratch"])
    assert {(row.p, row.overall) for row in table if row.members} == {(None, False)}
    assert "pretrained, ensemble of 3 seeds" in to_text(table)


def test_one_seed_is_no_ensemble_and_masks_are_one_only_where_they_were_tested(make_run: RunMaker) -> None:
    runs = [
        read_run(make_run("age", "regression", shots=(5,), seeds=1)),
        read_run(make_run("tumour", "segmentation", shots=(5,), pictures=False)),
    ]
    assert not any(row.members for row in results.rows(results.settings(runs)))


def test_the_error_of_a_regression_is_shown_by_band(make_run: RunMaker) -> None:
    (setting,) = results.settings([read_run(make_run("age", "regression", shots=(5,)))])
    table = [row for row in results.rows([setting]) if row.band]
    target = setting.arms[0].seeds[0].columns["target"]
    bands = list(dict.fromkeys(row.band for row in table))
    assert len(bands) > 1
    for band in bands:
        low, high = (float(end) for end in band.split("–"))
        inside = np.flatnonzero((target >= low) & (target < high))
        for arm in setting.arms:
            errors = [seed.columns["prediction"][inside] - target[inside] for seed in arm.seeds]
            found = {row.metric: row for row in table if row.band == band and row.arm is arm}
            assert found["mae"].score.value == pytest.approx(np.mean(np.abs(errors)))
            assert found["bias"].score.value == pytest.approx(np.mean(errors))
            assert found["mae"].score.n == len(inside)
            assert (found["mae"].difference is None) == (arm.init == "scratch")


def test_the_difference_is_on_the_seeds_that_both_finished(make_run: RunMaker) -> None:
    path = make_run("age", "regression", shots=(5,), seeds=3, skip=["shots5_seed1_scratch"])
    found = results.settings([read_run(path)])
    arm, twin = found[0].arms
    assert (list(arm.tables), list(twin.tables)) == ([0, 1, 2], [0, 2])
    row = next(r for r in results.rows(found) if r.metric == "mae")
    assert row.difference == differences([arm.tables[0], arm.tables[2]], twin.seeds)["mae"]


def test_folds_are_joined_and_incomplete_seeds_left_out(make_run: RunMaker) -> None:
    path = make_run("age", "regression", folds=4, seeds=2, skip=["fold2_seed1_pretrained"], datasets=("A", "B"))
    found = results.settings([read_run(path)])
    assert [s.label for s in found] == ["4-fold cross-validation"]
    arm, twin = found[0].arms
    assert (list(arm.tables), list(twin.tables)) == ([0], [0, 1])
    assert len(arm.tables[0]) == 16
    assert len(set(arm.tables[0].cases)) == 16
    rows = results.rows(found)
    assert {row.dataset for row in rows} == {"all", "A", "B"}
    assert {row.score.n for row in rows if row.dataset == "A"} == {8}


@pytest.mark.parametrize(
    ("low", "high", "metric", "words"),
    [
        (0.01, 0.2, "dice", "better"),
        (-0.2, -0.01, "dice", "worse"),
        (-0.1, 0.1, "dice", "no clear difference"),
        (0.0, 0.1, "dice", "no clear difference"),
        (-3.0, -1.0, "mae", "better"),
        (1.0, 3.0, "mae", "worse"),
        (math.nan, math.nan, "pearson", "no clear difference"),
    ],
)
def test_verdicts_follow_the_interval_and_the_direction_of_the_metric(
    low: float, high: float, metric: str, words: str
) -> None:
    assert results.verdict(Interval((low + high) / 2, low, high, 20), metric) == words


def test_ranking_is_the_mean_of_ranks_per_metric_with_ties_and_gaps(make_run: RunMaker) -> None:
    runs = [
        read_run(make_run("a_seg", "segmentation", shots=(5,), task="seg", bundle="one/bundle", pictures=False)),
        read_run(
            make_run("b_seg", "segmentation", shots=(5,), task="seg", bundle="two/bundle", quality={"pretrained": 0.7})
        ),
        read_run(make_run("a_age", "regression", shots=(5,), task="age", bundle="one/bundle")),
    ]
    found = results.settings(runs)
    table = results.rows(found)
    ranked = ranking(found)
    assert [place.method for place in ranked] == ["pretrained one", "scratch", "pretrained two"]
    assert ranked[2].by_setting == [("age, 5 shots", 3.0), ("seg, 5 shots", 2.0)]
    assert [place.rank for place in ranked] == [1.0, 2.5, 2.5]
    for place in ranked:
        assert place.low <= place.rank <= place.high
        assert sum(place.shares) == pytest.approx(1.0)
    assert [sum(place.shares[k] for place in ranked) for k in range(3)] == pytest.approx([1.0] * 3)
    assert ranked[0].shares[0] == 1.0
    # Plain reference for one setting and metric.
    scores = {r.arm.method: r.score.value for r in table if r.setting.task == "seg" and r.metric == "dice"}
    assert sorted(scores, key=lambda name: -scores[name]) == ["pretrained one", "pretrained two", "scratch"]


def test_the_twin_may_be_another_run_that_differs_in_the_bundle_alone(make_run: RunMaker) -> None:
    def run(name: str, init: str, **options: object) -> Run:
        bundle = "one/bundle" if init == "pretrained" else None
        quality = {init: 0.6 if init == "scratch" else 0.8}
        return read_run(
            make_run(name, "regression", shots=(5,), task="t", bundle=bundle, quality=quality, **options)  # type: ignore[arg-type]
        )

    own, twin = run("a", "pretrained"), run("b", "scratch")
    other_network, other_seeds = run("c", "scratch", encoder="vit_t_p8"), run("d", "scratch", seeds=3)
    (setting,) = results.settings([own, other_network, other_seeds, twin])
    arm = setting.arms[0]
    assert arm.run is own
    found = setting.twin(arm)
    assert found is not None
    assert found.run is twin
    table = results.rows([setting])
    assert {row.arm.run.path.name for row in table if row.difference is not None} == {"a"}
    (further,) = results.settings([own, other_network, other_seeds])
    found = further.twin(further.arms[0])
    assert found is not None
    assert found.run is other_seeds
    (without,) = results.settings([own, other_network])
    assert without.twin(without.arms[0]) is None


def test_methods_are_told_apart_by_what_differs(make_run: RunMaker) -> None:
    one = read_run(make_run("r1", "segmentation", task="t", pictures=False, bundle="x_mae/bundle", shots=(1,)))
    two = read_run(
        make_run(
            "r2", "segmentation", task="t", pictures=False, bundle="y_contrast/bundle", encoder="vit_t_p8", shots=(1,)
        )
    )
    names = method_names([one, two])
    assert set(names.values()) == {"pretrained x_mae", "pretrained y_contrast", "scratch unet_t", "scratch vit_t_p8"}
    assert set(method_names([one]).values()) == {"pretrained", "scratch"}
    again = read_run(make_run("r3", "segmentation", task="t", pictures=False, bundle="x_mae/bundle", shots=(1,)))
    assert len(set(method_names([one, again]).values())) == 4
    alike = [
        read_run(make_run(f"{name}/finetune", "regression", task="t", bundle="x_mae/bundle", shots=(1,)))
        for name in ("slow", "fast")
    ]
    assert len(set(method_names(alike).values())) == 4
    assert len(ranking(results.settings(alike))) == 4


def test_bundles_of_one_name_are_different_methods(make_run: RunMaker) -> None:
    runs = [
        read_run(make_run(task, "regression", task=task, bundle=f"{sweep}/0/bundle", shots=(1,)))
        for task, sweep in (("t", "sweep_1mm"), ("u", "sweep_2mm"), ("v", "sweep_1mm"))
    ]
    names = method_names(runs)
    called = [names[str(run.path), "pretrained"].removeprefix("pretrained ") for run in runs]
    assert called == ["sweep_1mm/0", "sweep_2mm/0", "sweep_1mm/0"]
    assert {place.method for place in ranking(results.settings(runs))} == {*names.values()}


def test_encoders_of_one_name_are_told_apart_by_their_arguments_and_bundles_by_their_length(make_run: RunMaker) -> None:
    runs = []
    for size, channels in (("small", [8, 16]), ("large", [16, 32])):
        for task in ("t", "u"):
            bundle = f"mae_{size}/samples_100/bundle"
            run = read_run(
                make_run(f"{task}_{size}", "regression", task=task, pictures=False, bundle=bundle, shots=(1,))
            )
            run.record["recipe"]["encoder"] |= {"channels": channels, "depth": 2}
            runs.append(run)
    assert set(method_names(runs).values()) == {
        *("pretrained mae_small samples_100", "scratch unet_t channels=8-16"),
        *("pretrained mae_large samples_100", "scratch unet_t channels=16-32"),
    }


def test_runs_with_other_test_cases_are_not_compared(make_run: RunMaker) -> None:
    one = read_run(make_run("r1", "segmentation", task="t", pictures=False, shots=(1,)))
    two = make_run("r2", "segmentation", task="t", pictures=False, shots=(1,))
    for file in two.glob("units/*/predictions.csv"):
        file.write_text("\n".join(file.read_text().splitlines()[:-1]))
    found = results.settings([one, read_run(two)])
    assert [len(setting.arms) for setting in found] == [2, 2]
    # Nor is one of the two, which have one name, lost from the ranking.
    assert {tuple(name for name, _ in place.by_setting) for place in ranking(found)} == {("t, 1 shot", "t, 1 shot")}


def test_runs_with_other_labels_of_the_same_cases_are_not_compared(make_run: RunMaker) -> None:
    one = read_run(make_run("r1", "classification", task="t", shots=(1,)))
    two = make_run("r2", "classification", task="t", shots=(1,))
    for file in two.glob("units/*/predictions.csv"):
        # The label of one case was corrected between the runs.
        file.write_text(file.read_text().replace("sub_00,sub_00,,0.0", "sub_00,sub_00,,1.0"))
    found = results.settings([one, read_run(two)])
    assert [[arm.run.path.name for arm in setting.arms] for setting in found] == [["r1", "r1"], ["r2", "r2"]]


def test_csv_has_a_line_a_task_shots_init_and_metric(make_run: RunMaker) -> None:
    runs = [
        read_run(make_run("tumour", "segmentation", pictures=False)),
        read_run(make_run("age", "regression", folds=4)),
    ]
    table = results.rows(results.settings(runs))
    lines = list(csv.DictReader(io.StringIO(to_csv(table))))
    bands = {row.band for row in table if row.band}
    # The last four: two metrics of both ensembles of numbers.
    assert len(lines) == 2 * 2 * 3 + 2 * 3 + 2 * 2 * len(bands) + 4
    columns = ("task", "training", "init", "metric", "band", "of_seeds")
    keys = {tuple(line[column] for column in columns) for line in lines}
    assert len(keys) == len(lines)
    first = next(x for x in lines if x["task"] == "tumour" and x["init"] == "pretrained" and x["shots"] == "5")
    assert float(first["low"]) <= float(first["mean"]) <= float(first["high"])
    assert (first["subjects"], first["seeds"], first["verdict"]) == ("16", "2", "better")
    assert 0.0 < float(first["p"]) <= float(first["p_holm"]) < 0.05
    assert {line["difference"] for line in lines if line["init"] == "scratch"} == {""}
    assert {line["p"] for line in lines if line["init"] == "scratch" or line["metric"] == "volume_error"} == {""}


def test_runs_from_before_are_evaluated_with_what_they_have(make_run: RunMaker) -> None:
    old = read_run(RunMaker(make_run.root, further=False)("old", "segmentation", shots=(5,), task="t"))
    new = read_run(make_run("new", "segmentation", shots=(5,), task="t", pictures=False))
    table = results.rows(results.settings([old, new]))
    metrics = {str(run.path): {row.metric for row in table if row.arm.run is run} for run in (old, new)}
    assert metrics[str(old.path)] == {"dice", "surface_dice"}
    assert metrics[str(new.path)] == {"dice", "surface_dice", "volume_error"}
    assert len(ranking(results.settings([old, new]))) == 4


def test_nothing_to_evaluate_is_an_error(make_run: RunMaker) -> None:
    root = make_run.root
    (root / "pretraining").mkdir(parents=True)
    with pytest.raises(RunError, match="nothing matches"):
        find_runs([str(root / "no_*")])
    with pytest.raises(RunError, match="none of 1 matches is a finetuning run"):
        find_runs([str(root / "*")])
    everything = [f"shots{k}_seed{s}_{i}" for k in (1, 5) for s in (0, 1) for i in ("pretrained", "scratch")]
    make_run("waiting", "segmentation", skip=everything)
    with pytest.raises(RunError, match="none of 8 units is finished"):
        find_runs([str(root / "*")])


def test_a_run_that_matches_twice_is_read_once(make_run: RunMaker) -> None:
    path = make_run("age", "regression", shots=(1,))
    assert [run.path for run in find_runs([str(path), f"{path}/", str(path.parent / "*")])] == [path]


def test_a_damaged_unit_is_named(make_run: RunMaker) -> None:
    path = make_run("tumour", "segmentation", pictures=False)
    file = path / "units" / "shots1_seed0_scratch" / "result.json"
    file.write_text(file.read_text()[:50])
    with pytest.raises(RunError, match="shots1_seed0_scratch"):
        read_run(path)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.8451, "0.845"), (-0.05, "−0.050"), (8.736, "8.74"), (21.44, "21.4"), (150.2, "150.2"), (math.nan, "–")],
)
def test_numbers_have_three_digits(value: float, text: str) -> None:
    assert number(value) == text
