"""Tasks of one name are told apart by where they lie, or by their files."""

import json
from pathlib import Path
from typing import Any

import pytest
from page_rules import assert_whole
from run_maker import RunMaker

from fomo_ssl.report import results
from fomo_ssl.report.html import render
from fomo_ssl.report.runs import Run, read_run
from fomo_ssl.report.tasks import task_names


@pytest.fixture
def make(make_run: RunMaker):
    def make_of(name: str, **values: Any) -> Run:
        path = make_run(name, "segmentation", task="train", shots=(5,), seeds=1, pictures=False)
        record = json.loads((path / "run.json").read_text())
        record["recipe"] |= {"task_kind": "segmentation", "sequences": values.pop("sequences", ["t1"])}
        (path / "run.json").write_text(json.dumps(record | values))
        return read_run(path)

    return make_of


def titles(*runs: Run) -> list[str]:
    names = task_names(runs)
    return [names[str(run.path)] for run in runs]


def test_tables_of_one_name_in_two_folders_have_sections_of_their_own(make) -> None:
    runs = [make("a", task_path="/data/north/train.csv"), make("b", task_path="/data/south/train.csv")]
    assert titles(*runs) == ["train (north/train.csv)", "train (south/train.csv)"]
    found = results.settings(runs)
    # The same cases, by name: still nothing to compare.
    assert [[arm.run.path.name for arm in setting.arms] for setting in found] == [["a", "a"], ["b", "b"]]
    assert {arm.method for setting in found for arm in setting.arms} == {"pretrained", "scratch"}
    text = render(runs, found, results.rows(found), "2026-01-01 12:00")
    assert_whole(text)
    for place in ("north", "south"):
        assert text.count(f"<h2>train ({place}/train.csv)</h2>") == 1


def test_one_task_stays_one(make) -> None:
    path = "/data/train.csv"
    # Of one path: on other cases, with a label that was corrected, with other sequences.
    runs = [make(str(i), task_path=path, cases=cases) for i, cases in enumerate(({"x": "1"}, {"y": "2"}, {"x": "3"}))]
    runs.append(make("two", task_path=path, cases={"x": "4"}, sequences=["t1", "flair"]))
    # Copied to another machine.
    runs.append(make("moved", task_path="/scratch/train.csv", cases={"y": "2"}))
    assert titles(*runs) == ["train"] * 5


def test_files_tell_where_no_path_is_known(make) -> None:
    one, other = make("a", cases={"x": "1", "y": "2"}), make("b", cases={"x": "1", "y": "3"})
    assert titles(one, other) == ["train (a)", "train (b)"]
    assert titles(one, make("c", cases={"x": "1"})) == ["train", "train"]


def test_a_run_that_says_nothing_joins_those_of_its_name(make) -> None:
    early = make("early")
    assert titles(early, make("a", task_path=str(Path("/data/train.csv")), cases={"x": "1"})) == ["train", "train"]
    assert titles(early, make("also_early")) == ["train", "train"]
