"""Every notebook is committed as its script and its executed form, and the two say the same."""

from pathlib import Path

import jupytext
import nbformat
import pytest

FOLDER = Path(__file__).parents[1] / "notebooks"
SCRIPTS = sorted(path for path in FOLDER.glob("*.py") if "# %%" in path.read_text())


def test_there_are_notebooks() -> None:
    assert SCRIPTS


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_the_executed_form_is_that_of_the_script(script: Path) -> None:
    executed = nbformat.read(script.with_suffix(".ipynb"), as_version=4)
    written = jupytext.read(script)
    assert [(cell.cell_type, cell.source) for cell in executed.cells] == [
        (cell.cell_type, cell.source) for cell in written.cells
    ]
    code = [cell for cell in executed.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1)), "executed from top to bottom"
    assert not [o for cell in code for o in cell.outputs if o.output_type == "error"]
    assert any(cell.outputs for cell in code)


@pytest.mark.parametrize(
    ("notebook", "page", "left_out", "count"),
    [("fomo25_study", "results", 0, 4), ("objective_ablation", "benchmarks", 1, 4)],
)
def test_a_page_of_results_has_the_tables_of_the_executed_notebook(
    notebook: str, page: str, left_out: int, count: int
) -> None:
    text = (FOLDER.parent / f"docs/{page}.md").read_text()
    executed = nbformat.read(FOLDER / f"{notebook}.ipynb", as_version=4)
    outputs = [output for cell in executed.cells if cell.cell_type == "code" for output in cell.outputs]
    tables = [output.data["text/markdown"] for output in outputs if "text/markdown" in output.get("data", {})]
    assert len(tables) == left_out + count
    for table in tables[left_out:]:
        assert table in text
