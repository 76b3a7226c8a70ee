"""Execute a notebook's script and write the pair beside it: python notebooks/execute.py notebooks/NAME.py

The script is what is edited and read in reviews; the .ipynb is its executed form. `--output` writes elsewhere.
"""

import argparse
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient


def execute(script: Path, output: Path) -> None:
    notebook = jupytext.read(script)
    client = NotebookClient(notebook, timeout=None, resources={"metadata": {"path": str(script.parent)}})
    client.execute()
    for index, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{index:02d}"  # random ones would change at every execution
        cell.metadata.pop("execution", None)
    nbformat.write(notebook, output)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("script", type=Path)
    parser.add_argument("--output", type=Path, help="default: the script with the suffix .ipynb")
    options = parser.parse_args()
    execute(options.script, options.output or options.script.with_suffix(".ipynb"))


if __name__ == "__main__":
    main()
