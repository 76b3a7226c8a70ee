"""Commands in the documentation are commands: they compose, and those of the tutorials run."""

import importlib
import importlib.util
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from fomo_ssl.config import compose

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
TUTORIALS = [ROOT / f"docs/tutorials/{name}.md" for name in ("first_pretraining", "your_own_task")]
HYDRA = {"preprocess", "pretrain", "finetune", "evaluate"}
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page: Path) -> list[tuple[str, str]]:
    """Language and text of every fenced block."""
    return _BLOCK.findall(page.read_text())


def commands(page: Path) -> list[list[str]]:
    """Words of every `python -m fomo_ssl.NAME …` in a page's blocks, NAME first."""
    lines = [line for _, text in blocks(page) for line in text.replace("\\\n", " ").splitlines()]
    found = [shlex.split(line, comments=True) for line in lines if line.strip().startswith("python -m fomo_ssl.")]
    return [[words[2].removeprefix("fomo_ssl."), *words[3:]] for words in found]


def parse(name: str, arguments: list[str]) -> None:
    """Have a command's own parser read plain flags, where it shows one; a mistake is an error."""
    spec = importlib.util.find_spec(f"fomo_ssl.{name}")
    package = ".__main__" if spec is not None and spec.submodule_search_locations else ""
    parser = getattr(importlib.import_module(f"fomo_ssl.{name}{package}"), "parser", None)
    if parser is not None:
        parser().parse_args(arguments)


ALL = [(page, words) for page in PAGES for words in commands(page)]


def test_there_are_commands():
    assert len(ALL) > 40


@pytest.mark.parametrize(
    ("page", "words"), ALL, ids=[f"{page.stem}-{number}-{words[0]}" for number, (page, words) in enumerate(ALL)]
)
def test_command_of_a_page_is_one(page: Path, words: list[str]):
    name, *arguments = words
    assert importlib.util.find_spec(f"fomo_ssl.{name}"), f"{page.name} names a command that is not there"
    if {"--help", "…"} & set(arguments) or any(word.startswith("[-") for word in arguments):
        return
    if name not in HYDRA:
        parse(name, arguments)
        return
    if "--config-dir=conf" in arguments:  # with a file of the reader's own: tests/core/test_plugins.py runs it
        return
    values = [a for a in arguments if a != "--multirun"]
    if "--multirun" in arguments:  # a list of values is a list of runs: take the first of each
        values = [re.sub(r"=([^\[,]+),.*", r"=\1", a) for a in values]
    if name == "finetune":  # what its entry does: the recipe goes by the task's kind, and shots are a list
        values = [re.sub(r"^shots=(.*,.*)$", r"shots=[\1]", re.sub(r"^task=", "task_path=", a)) for a in values]
    compose(name, values)


@pytest.mark.slow
def test_the_tutorials_run_from_top_to_bottom(tmp_path: Path):
    for page in TUTORIALS:
        for language, text in blocks(page):
            program = ["bash", "-e", "-c", text] if language == "bash" else [sys.executable, "-c", text]
            path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
            environment = {"PATH": path, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "HOME": str(tmp_path)}
            done = subprocess.run(program, check=False, cwd=tmp_path, env=environment, capture_output=True, text=True)
            assert done.returncode == 0, f"{page.name}: {text}\n{done.stderr[-2000:]}"
    age = float((tmp_path / "age.txt").read_text())
    assert 0 < age < 120
    assert (tmp_path / "report" / "report.html").is_file()
    assert (tmp_path / "data_report.html").is_file()
