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


@pytest.mark.parametrize("name", list_objectives())
def test_what_was_measured_stands_in_one_row_of_the_section_that_is_cited(name: str) -> None:
    for statement in rows()[name][6].split("; "):
        link = re.search(r"\[[^\]]+\]\((\w+\.md)#([\w-]+)\)", statement)
        assert link is not None, statement
        said = figures(statement) + re.findall(r"on `(\w+)`", statement)
        assert figures(statement), statement
        table = [line for line in section(link[1], link[2]).splitlines() if line.startswith("| ")]
        # Rows that name the objective, where there are such.
        table = [line for line in table if name in re.findall(r"\w+", line.split("|")[1])] or table
        there = [figures(line) + re.findall(r"\w+", line) for line in table]
        assert any(set(said) <= set(row) for row in there), statement


def figures(text: str) -> list[str]:
    return re.findall(r"[+-]?\d+\.\d+", text)


def section(page: str, anchor: str) -> str:
    """The text under a heading of a page, by the anchor that the heading gets."""
    pieces = re.split(r"^#+ (.+)$", (PAGE.parent / page).read_text(), flags=re.MULTILINE)
    texts = dict(zip(pieces[1::2], pieces[2::2], strict=True))
    return next(
        text for title, text in texts.items() if re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") == anchor
    )
