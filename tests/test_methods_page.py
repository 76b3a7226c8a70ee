"""docs/METHODS.md says what the code does: every objective has its line, its file, and its defaults."""

import inspect
import re
from pathlib import Path

import pytest

from fomo_ssl.objectives import list_objectives
from fomo_ssl.objectives.base import objectives

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "METHODS.md"


def rows() -> dict[str, list[str]]:
    cells = [line.strip("| \n").split(" | ") for line in PAGE.read_text().splitlines() if line.startswith("| `")]
    return {row[0].strip("`"): row for row in cells}


def test_every_objective_has_one_line() -> None:
    assert sorted(rows()) == sorted(list_objectives())
    assert {len(row) for row in rows().values()} == {7}


@pytest.mark.parametrize("name", list_objectives())
def test_a_line_names_the_file_that_registers_the_objective(name: str) -> None:
    link = re.search(r"\]\(\.\./(fomo_ssl/objectives/\w+\.py)\)", rows()[name][1])
    assert link is not None
    assert link[1] == str(Path(inspect.getfile(objectives[name])).resolve().relative_to(ROOT))


@pytest.mark.parametrize("name", list_objectives())
def test_the_papers_of_a_line_are_those_of_the_file(name: str) -> None:
    source = Path(inspect.getfile(objectives[name])).read_text()
    papers = re.findall(r"arxiv\.org/abs/([\d.]+)", rows()[name][2])
    assert papers
    assert [paper for paper in papers if paper not in source] == []


@pytest.mark.parametrize("name", list_objectives())
def test_settings_are_the_defaults_of_the_code(name: str) -> None:
    defaults = {
        key: parameter.default
        for key, parameter in inspect.signature(objectives[name]).parameters.items()
        if key != "encoder" and isinstance(parameter.default, str | int | float)
    }
    written = dict(re.findall(r"`(\w+)=([\w.+-]+)`", rows()[name][4]))
    assert written == {
        key: str(value).lower() if isinstance(value, bool) else str(value) for key, value in defaults.items()
    }
