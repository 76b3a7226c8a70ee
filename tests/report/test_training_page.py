import json
import re
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from page_rules import assert_whole

from fomo_ssl import run_report
from fomo_ssl.report.training_figures import Line, curves, thinned
from fomo_ssl.report.training_page import flat, render

RECORD = {
    "status": "running",
    "n_parameters": 1234567,
    "scans": 40,
    "subjects": 20,
    "held_out_subjects": 6,
    "recipe": {"encoder": {"name": "vit_t_p8"}, "objective": {"name": "mae", "mask_ratio": 0.75}, "samples": 24000},
    "health": {"min_spread": 0.1, "min_rankme": 1.05},
    "circumstances": {"torch": "2.14.1"},
}
METRICS = """samples,loss,held_out/loss,probe/age_linear,probe/age_knn,probe/age_baseline,health/relative_std
0,,,20.5,21.5,19,0.5
8,1.5,,,,,
8,,,18.5,17.5,19,0.004
16,1.25,1.75,,,,
"""


@pytest.fixture
def run(tmp_path: Path) -> Path:
    path = tmp_path / "runs" / "mae_<t>"
    (path / "previews").mkdir(parents=True)
    (path / "run.json").write_text(json.dumps(RECORD))
    (path / "metrics.csv").write_text(METRICS)
    for name in ("samples_000000008", "samples_000000016", "features_000000000", "features_000000008"):
        matplotlib.image.imsave(path / "previews" / f"{name}.png", np.zeros((2, 2)))
    return path


def test_a_folder_that_is_no_pretraining_run_is_one_line_and_stops_no_other(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    finetuned = tmp_path / "runs" / "finetuned"
    finetuned.mkdir()
    (finetuned / "run.json").write_text(json.dumps({"status": "finished", "recipe": {"task": "infarct"}}))
    with pytest.raises(SystemExit, match="2"):
        run_report.main([str(finetuned)])
    assert capsys.readouterr().err.count("\n") == 1
    with pytest.raises(SystemExit, match="2"):
        run_report.main([str(finetuned), str(tmp_path / "runs"), str(run)])
    said = capsys.readouterr()
    assert said.out == f"{run / 'report.html'}\n"
    assert f"{finetuned}: is no pretraining run" in said.err
    assert "no page of 2 of 3 folders" in said.err


def test_a_running_run_is_a_page(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_report.main([str(run)])
    assert capsys.readouterr().out == f"{run / 'report.html'}\n"
    page = (run / "report.html").read_text()
    assert "mae_&lt;t&gt;" in page
    assert "16 of 24,000 samples" in page
    assert "Age told from the frozen embedding" in page
    assert "Sex told" not in page
    assert '<td class="id">objective.mask_ratio</td><td class="wide">0.75</td>' in page
    captions = re.findall("<figcaption>(.*?)</figcaption>", page)
    assert captions == [
        "held-out scans after 16 samples",
        "features of held-out scans after 0 samples",
        "features of held-out scans after 8 samples",
    ]
    assert_whole(page)
    assert 'class="bad"' not in page


def test_a_collapsed_run_says_so(run: Path) -> None:
    (run / "run.json").write_text(json.dumps(RECORD | {"status": "collapsed", "reason": "collapsed after 8 samples"}))
    assert '<p class="bad">collapsed after 8 samples</p>' in render(run, "today")


def test_a_run_that_has_just_begun(run: Path) -> None:
    (run / "metrics.csv").unlink()
    assert "0 of 24,000 samples" in render(run, "today")


def test_no_run_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        run_report.main([str(tmp_path)])
    assert stop.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_curves_show_every_line_and_the_threshold() -> None:
    samples = [0.0, 1.0]
    lines = [
        Line("linear", "#112233", samples, [0.5, 0.75]),
        Line("baseline", "#445566", samples, [0.5, 0.5], dashed=True),
    ]
    svg = curves("Sequence", "accuracy", lines, 0.25, "f")
    for text in ("Sequence", "accuracy", "linear", "baseline", "alarm", "#112233"):
        assert text in svg
    assert svg.count("stroke-dasharray") >= 2
    assert curves("Sequence", "accuracy", lines, 0.25, "f") == svg


def test_long_lines_are_thinned_to_means() -> None:
    values = np.random.default_rng(0).normal(size=2500).tolist()
    assert thinned(values[:1000]) == values[:1000]
    assert len(thinned(values)) == 834
    assert thinned(values)[1] == pytest.approx(np.mean(values[3:6]))
    assert thinned([]) == []


def test_nested_values_become_names() -> None:
    assert flat({"a": {"b": 1, "c": {}}, "d": [1, 2]}) == [("a.b", "1"), ("a.c", "{}"), ("d", "[1, 2]")]
