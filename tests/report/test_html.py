import re
from html.parser import HTMLParser

import pytest
from run_maker import RunMaker, few_resamples

from fomo_ssl.core.errors import RunError
from fomo_ssl.report import results
from fomo_ssl.report.html import render, write_report
from fomo_ssl.report.runs import Run, read_run


class Balanced(HTMLParser):
    """Fails where a tag is closed that is not the last one opened."""

    VOID = frozenset(("meta", "img", "br", "link", "hr"))

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


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
            read_run(make("infarct", "classification", shots=(4,), quality={"pretrained": 0.3, "scratch": 0.3})),
            read_run(make("brain_age", "regression", folds=4, datasets=("IXI", "OASIS"))),
        )


def test_the_page_is_whole_and_needs_nothing_else(text: str) -> None:
    parser = Balanced()
    parser.feed(text)
    assert parser.open == []
    assert not re.search(r'(?:src|href)="(?!data:|#)', text)
    assert "<script" not in text
    assert "@import" not in text
    assert not re.search(r"url\((?!#)", text)


def test_the_page_shows_what_was_asked(text: str) -> None:
    assert "1 not finished and left out" in text
    for heading in ("Score against training subjects", "Learning curves", "ROC, 4 shots", "Within each dataset"):
        assert heading in text
    assert text.count("data:image/png") == 6
    assert "Predicted and true values, 4-fold cross-validation" in text
    assert re.search(r"better in \d", text)
    assert "How the figures were computed" in text
    assert "* Fewer than 10 subjects" in text
    assert "torch" in text


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
    assert re.search(r"<strong>[1-6] could not be drawn", text)


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
    assert re.search(r"†</td>\s*<td>16 × 2", text)
