import re
import shutil

import pytest
from page_rules import assert_whole
from run_maker import RunMaker, few_resamples

from fomo_ssl.core.errors import RunError
from fomo_ssl.report import results
from fomo_ssl.report.failures import failures
from fomo_ssl.report.html import render, write_report
from fomo_ssl.report.provenance import fingerprints
from fomo_ssl.report.runs import Run, read_run
from fomo_ssl.report.standings import ranking


def page(*runs: Run) -> str:
    found = results.settings(runs)
    return render(runs, found, results.rows(found), "2026-01-01 12:00")


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The page of three tasks of all kinds."""
    make = RunMaker(tmp_path_factory.mktemp("three"))
    with pytest.MonkeyPatch.context() as patch:
        few_resamples(patch)
        return page(
            read_run(make("tumour", "segmentation", shots=(1, 5), skip=["shots5_seed1_scratch"])),
            read_run(
                make(
                    "infarct", "classification", shots=(4,), quality={"pretrained": 0.3, "scratch": 0.3}, pictures=True
                )
            ),
            read_run(make("brain_age", "regression", folds=4, datasets=("IXI", "OASIS"), pictures=True)),
        )


def test_the_page_is_whole_and_needs_nothing_else(text: str) -> None:
    assert_whole(text)


def test_the_page_shows_what_was_asked(text: str) -> None:
    assert "1 not finished and left out" in text
    for heading in ("Score against training subjects", "Learning curves", "ROC, 4 shots", "Within each dataset"):
        assert heading in text
    assert text.count("data:image/png") == 27
    assert re.search(r"worst</strong> · sub_\d+ ·\s*class [01], given a probability of 0\.\d+\s*\(from scratch 0", text)
    assert re.search(r"best</strong> · sub_\d+ ·\s*true [\d.]+, predicted [\d.]+\s*\(from scratch", text)
    assert "Predicted and true values, 4-fold cross-validation" in text
    assert re.search(r"better in \d", text)
    assert "How the figures were computed" in text
    assert "* Fewer than 10 subjects" in text
    assert "Seeds as an ensemble" in text
    assert "pretrained, ensemble of 2 seeds" in text
    assert "torch" in text
    assert "Error by band, 4-fold cross-validation" in text
    for metric in ("volume error, ml", "Brier score", "calibration error", "balanced accuracy"):
        assert metric in text


def test_comparisons_carry_p_and_those_that_do_not_survive_correction_are_marked(make_run: RunMaker) -> None:
    clear = page(read_run(make_run("x", "segmentation", shots=(5,), pictures=False)))
    # 16 subjects, all better: 2 of 65,536 sign vectors are as extreme.
    assert clear.count("<td>&lt; 0.001</td>") == 4
    assert "2 of them hold" in clear
    assert "‡" not in clear
    # Three subjects cannot be told from chance, whatever the interval says: p is 1/4 at least.
    few = make_run("y", "segmentation", shots=(5,), pictures=False)
    for file in few.glob("units/*/predictions.csv"):
        file.write_text("\n".join(file.read_text().splitlines()[:4]))
    text = page(read_run(few))
    assert "0 of them hold" in text
    assert re.search(r"better&nbsp;\*‡</td>", text)
    assert "<td>0.250</td><td>0.500</td>" in text


def test_the_ranking_is_shown_with_its_stability(text: str) -> None:
    assert "<h3>Ranking" in text
    assert "How often each method takes each rank" in text


def test_what_is_missing_is_listed(make_run: RunMaker, text: str) -> None:
    assert re.search(r"units not finished</td>.*?1 of 8: shots5_seed1_scratch", text)
    whole = make_run("x", "regression", shots=(1,))
    assert "Nothing: every planned unit is finished" in page(read_run(whole))
    alone = read_run(make_run("y", "regression", shots=(1,), quality={"pretrained": 0.5}))
    assert "no twin" in page(alone)
    file = whole / "units" / "shots1_seed1_scratch" / "predictions.csv"
    lines = file.read_text().splitlines()
    # Every arm of the seed is tested on the same cases, so that the lost one is lost in all of them.
    for other in whole.glob("units/*/predictions.csv"):
        other.write_text("\n".join(other.read_text().splitlines()[:-1]))
    lost = page(read_run(whole))
    assert re.search(r"cases without a prediction</td>.*?1: " + lines[-1].split(",")[0], lost)
    lines[-1] = ",".join([*lines[-1].split(",")[:-1], "nan"])
    for other in whole.glob("units/*/predictions.csv"):
        other.write_text("\n".join(lines))
    assert re.search(r"cases without a prediction</td>.*?1: " + lines[-1].split(",")[0], page(read_run(whole)))
    missing = [f"fold1_seed0_{init}" for init in ("pretrained", "scratch")]
    folds = read_run(make_run("z", "regression", folds=4, skip=missing))
    assert "pretrained, seed 0: not every fold is finished" in page(folds)


@pytest.mark.parametrize("start", ["pretrained", "scratch"])
def test_units_of_a_run_that_did_none_are_named(make_run: RunMaker, start: str) -> None:
    bundle = "pre/bundle" if start == "pretrained" else None
    path = make_run("x", "regression", shots=(1,), seeds=2, bundle=bundle, quality={start: 0.5})
    shutil.rmtree(path / "units")
    (failure,) = failures([read_run(path)], [])
    assert failure.detail == f"2 of 2: shots1_seed0_{start}, shots1_seed1_{start}"


def test_every_dataset_has_its_colour_explained(make_run: RunMaker) -> None:
    datasets = [f"site_{letter}" for letter in "ABCDEF"]
    text = page(read_run(make_run("x", "regression", shots=(5,), datasets=datasets)))
    caption = re.search(r"<figcaption>Every point is a test case.*?</figcaption>", text, re.DOTALL)
    assert caption is not None
    keys = dict(re.findall(r'border-color: (#\w+)"></span> (site_\w)', caption[0]))
    assert list(keys.values()) == datasets
    assert len(keys) == 6
    one = page(read_run(make_run("y", "regression", shots=(5,))))
    assert "Coloured by dataset" not in one


def test_a_run_from_before_makes_a_page(make_run: RunMaker) -> None:
    text = page(read_run(RunMaker(make_run.root, further=False)("old", "segmentation", shots=(5,))))
    assert text.count("data:image/png") == 6
    assert "Further metrics" not in text


def test_provenance_holds_configuration_and_fingerprints(make_run: RunMaker) -> None:
    one, same = (read_run(make_run(name, "regression", task="t", shots=(1,))) for name in ("x", "y"))
    other = read_run(make_run("z", "regression", task="t", shots=(5,)))
    text = page(one)
    assert "Configuration of" in text
    assert "&#34;batch_size&#34;: 2" in text
    prints = fingerprints(one)
    assert prints == fingerprints(same)
    assert prints["splits"] != fingerprints(other)["splits"]
    assert prints["bundle"] == "no longer there"
    assert prints["splits"] in text


def test_tasks_of_one_name_and_of_other_kinds_are_kept_apart(make_run: RunMaker) -> None:
    runs = [
        read_run(make_run("a", "segmentation", task="train")),
        read_run(make_run("b", "classification", task="train", shots=(4,))),
        read_run(make_run("c", "regression", task="train", shots=(4,))),
    ]
    found = results.settings(runs)
    text = render(runs, found, results.rows(found), "2026-01-01 12:00")
    assert text.count("<h2>train</h2>") == 3
    for part in ("ROC, 4 shots", "Predicted and true values, 4 shots", "best cases, 5 shots", "Score against training"):
        assert part in text
    assert_whole(text)
    place = next(ranked for ranked in ranking(found) if ranked.method == "scratch (a)")
    # Second of two in both settings of the segmentation, and missing, so third, in two other tasks.
    assert place.rank == pytest.approx((2 + 3 + 3) / 3)


def test_names_are_escaped(make_run: RunMaker) -> None:
    text = page(read_run(make_run("x", "segmentation", task="<b>&", shots=(1,), pictures=False)))
    assert "<b>" not in text
    assert "&lt;b&gt;&amp;" in text


def test_only_scratch_makes_a_page_without_comparisons(make_run: RunMaker) -> None:
    run = read_run(make_run("x", "segmentation", bundle=None, quality={"scratch": 0.5}, shots=(1,), pictures=False))
    text = page(run)
    assert run.unfinished == 0
    assert "Results of finetuning" in text
    assert "verdict" not in text
    assert "<h3>Ranking" not in text


def test_cases_whose_files_moved_are_counted(make_run: RunMaker) -> None:
    path = make_run("x", "segmentation", shots=(1,), seeds=1)
    (make_run.root / "images" / next(p.name for p in (make_run.root / "images").iterdir())).unlink()
    text = page(read_run(path))
    assert re.search(r"<strong>[1-9] could not be drawn", text)


def test_an_undefined_score_is_a_dash(make_run: RunMaker) -> None:
    path = make_run("x", "classification", shots=(4,), seeds=1)
    for file in path.glob("units/*/predictions.csv"):
        lines = file.read_text().splitlines()
        file.write_text("\n".join([lines[0], *(line for line in lines[1:] if ",1.0," in line)]))
    text = page(read_run(path))
    assert "– [–, –]" in text


def test_files_are_written(make_run: RunMaker) -> None:
    runs = [read_run(make_run("x", "classification", shots=(4,)))]
    rows = write_report(runs, make_run.root / "out")
    assert len((make_run.root / "out" / "results.csv").read_text().splitlines()) == len(rows) + 1
    assert (make_run.root / "out" / "report.html").read_text().startswith("<!doctype html>")


def test_single_folds_are_no_result(make_run: RunMaker) -> None:
    missing = [f"fold1_seed0_{init}" for init in ("pretrained", "scratch")]
    run = read_run(make_run("x", "regression", folds=4, seeds=1, skip=missing))
    with pytest.raises(RunError, match="no seed has all its folds"):
        write_report([run], make_run.root / "out")
    assert not (make_run.root / "out").exists()


def test_a_verdict_from_one_seed_or_few_subjects_is_marked(make_run: RunMaker, text: str) -> None:
    one = page(read_run(make_run("x", "regression", shots=(5,), seeds=1)))
    assert "† One seed" in one
    assert re.search(r"better&nbsp;†</td>", one)
    two = page(read_run(make_run("y", "regression", shots=(5,), seeds=2)))
    assert "†" not in two
    # The pair of seeds of the larger page lost one twin, so that one pair is left.
    assert re.search(r'†</td>\s*<td class="id">16 × 2', text)
