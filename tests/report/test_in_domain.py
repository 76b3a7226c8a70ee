"""The second control: a model from scratch that was trained on the hospital that is tested."""

import csv
import io
import itertools
import json

import numpy as np
import pytest
from page_rules import assert_whole
from run_maker import RunMaker

from fomo_ssl.downstream.permutation import holm
from fomo_ssl.downstream.scores import differences
from fomo_ssl.report import results
from fomo_ssl.report.failures import failures
from fomo_ssl.report.html import render
from fomo_ssl.report.results_table import to_csv, to_text
from fomo_ssl.report.runs import Run, read_run

NORTH, SOUTH = "pretrained, trained on north", "scratch, trained on south"


@pytest.fixture
def pair(make_run: RunMaker) -> list[Run]:
    """Two runs of one task, tested in the south."""
    common = {"task": "age", "shots": (5,), "seeds": 3, "datasets": ("south",)}
    return [
        read_run(make_run("n", "regression", trained_on=("north",), **common)),
        read_run(
            make_run("s", "regression", trained_on=("south",), quality={"pretrained": 0.95, "scratch": 0.9}, **common)
        ),
    ]


def test_the_pretrained_model_of_the_north_is_compared_with_scratch_of_the_south(pair: list[Run]) -> None:
    (setting,) = results.settings(pair)
    table = results.rows([setting])
    added = [row for row in table if row.in_domain]
    assert [(row.arm.method, row.metric) for row in added] == [(NORTH, "mae"), (NORTH, "pearson")]
    assert {row.against.method for row in added if row.against} == {SOUTH}
    north, south = (next(arm for arm in setting.arms if arm.method == name) for name in (NORTH, SOUTH))
    assert added[0].difference == differences(north.seeds, south.seeds)["mae"]
    # By hand: the mean over seeds of the differences of absolute errors, and all 2^16 swaps of subjects.
    target = north.seeds[0].columns["target"]
    errors = [np.mean([np.abs(t.columns["prediction"] - target) for t in arm.seeds], axis=0) for arm in (north, south)]
    apart = errors[0] - errors[1]
    swapped = np.array(list(itertools.product((1, -1), repeat=len(apart)))) @ apart
    assert added[0].difference is not None
    assert added[0].difference.value == pytest.approx(apart.mean())
    assert added[0].p == pytest.approx(np.mean(np.abs(swapped) >= abs(apart.sum()) - 1e-9))
    assert added[0].verdict == "worse"


def test_the_comparison_belongs_to_the_family_of_holm(pair: list[Run]) -> None:
    table = results.rows(results.settings(pair))
    tested = [row for row in table if row.p is not None]
    # Two metrics of two pretrained models against their twins, and of one against the control.
    assert len(tested) == 6
    assert [row.p_holm for row in tested] == holm([row.p for row in tested if row.p is not None])


def test_rows_of_controls_are_told_from_those_of_twins(pair: list[Run]) -> None:
    table = results.rows(results.settings(pair))
    lines = list(csv.DictReader(io.StringIO(to_csv(table))))
    of_control = [line for line in lines if line["control"] == "in-domain"]
    assert [(line["method"], line["against"], line["metric"]) for line in of_control] == [
        (NORTH, SOUTH, "mae"),
        (NORTH, SOUTH, "pearson"),
    ]
    twins = {(line["method"], line["against"]) for line in lines if line["control"] == "twin"}
    assert twins == {(NORTH, "scratch, trained on north"), ("pretrained, trained on south", SOUTH)}
    assert all((line["control"] == "") == (line["difference"] == "") for line in lines)
    assert f"{NORTH} - {SOUTH}" in to_text(table)


def test_the_page_names_both(pair: list[Run]) -> None:
    found = results.settings(pair)
    text = render(pair, found, results.rows(found), "2026-01-01 12:00")
    assert_whole(text)
    assert "Against supervised training in the tested domain" in text
    assert f"{NORTH} − {SOUTH}" in text
    assert "Of 4 comparisons with the same model trained from scratch" in text
    assert "Of 2 comparisons with a model from scratch" in text
    assert failures(pair, found) == []


def test_no_control_is_found_where_all_train_on_what_is_tested(make_run: RunMaker) -> None:
    runs = [
        read_run(make_run(name, "regression", task="age", shots=(5,), datasets=("south",), trained_on=("south",)))
        for name in "ab"
    ]
    found = results.settings(runs)
    assert not any(row.in_domain for row in results.rows(found))
    assert failures(runs, found) == []


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"cases": 12}, "tested on other cases: give both runs the same test_on and n_test"),
        ({"shots": (1,)}, "no from-scratch units finished"),
        ({"quality": {"pretrained": 0.9}}, "no from-scratch units finished"),
        ({"encoder": "vit_t_p8"}, "other values of encoder.name"),
        ({"skip": ["shots5_seed0_scratch"], "seeds": 1}, "no from-scratch units finished"),
    ],
)
def test_a_pair_that_does_not_fit_is_said(make_run: RunMaker, changes: dict[str, object], reason: str) -> None:
    common = {"task": "age", "shots": (5,), "seeds": 2, "datasets": ("south",)}
    north = read_run(make_run("n", "regression", trained_on=("north",), **common))
    south = read_run(make_run("s", "regression", trained_on=("south",), **(common | changes)))  # type: ignore[arg-type]
    found = results.settings([north, south])
    assert not any(row.in_domain for row in results.rows(found))
    said = [f for f in failures([north, south], found) if f.what == "no in-domain control"]
    assert [failure.run for failure in said] == [str(north.path)]
    assert "5 shots: not with" in said[0].detail
    assert reason in said[0].detail


def test_a_pair_without_a_common_seed_is_said(make_run: RunMaker) -> None:
    common = {"task": "age", "shots": (5,), "seeds": 2, "datasets": ("south",)}
    skip = [f"shots5_seed{seed}_{init}" for seed, init in ((0, "pretrained"), (1, "scratch"))]
    north = read_run(make_run("n", "regression", trained_on=("north",), skip=skip[:1], **common))
    south = read_run(make_run("s", "regression", trained_on=("south",), skip=skip[1:], **common))
    runs = [north, south]
    said = [f.detail for f in failures(runs, results.settings(runs)) if f.what == "no in-domain control"]
    assert len(said) == 1
    assert said[0].endswith("with which it has no seed in common")


def test_runs_that_do_not_say_what_they_were_trained_on_are_named(pair: list[Run]) -> None:
    for run in pair:
        record = json.loads((run.path / "run.json").read_text())
        del record["trained_on"]
        (run.path / "run.json").write_text(json.dumps(record))
        splits = json.loads((run.path / "splits.json").read_text())
        for split in splits:
            split["train"] = [f"{run.path.name}_{case}" for case in split["train"]]
        (run.path / "splits.json").write_text(json.dumps(splits))
    runs = [read_run(run.path) for run in pair]
    said = [f for f in failures(runs, results.settings(runs)) if f.what == "no in-domain control"]
    assert [failure.run for failure in said] == [str(run.path) for run in runs]
    assert "resume=auto" in said[0].detail
