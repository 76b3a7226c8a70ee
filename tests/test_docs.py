"""Commands in the documentation are commands: they compose, and those of the tutorials run.

A block that nothing here can run stands under a mark that says why, such as `<!-- needs SLURM -->`. What a marked block
has of our own commands is composed all the same. The python blocks are run by tests/test_docs_python.py.
"""

import argparse
import contextlib
import importlib
import importlib.util
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from torch.distributed.run import get_args_parser

from fomo_ssl.config import compose

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
TUTORIALS = [ROOT / f"docs/tutorials/{name}.md" for name in ("first_pretraining", "your_own_task")]
HYDRA = {"preprocess", "pretrain", "finetune", "evaluate"}
_BLOCK = re.compile(r"^(<!-- needs [^\n]+ -->\n)?```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# Text outside of blocks names scripts too.
_SCRIPT = re.compile(r"`(python (?:-m benchmarks\.|benchmarks/)[^`]+)`")


class Block(NamedTuple):
    marked: bool
    language: str
    text: str


class Line(NamedTuple):
    page: Path
    marked: bool
    words: list[str]


def blocks(page: Path) -> list[Block]:
    """Every fenced block of a page."""
    return [Block(bool(mark), language, text) for mark, language, text in _BLOCK.findall(page.read_text())]


def shell_lines(page: Path) -> Iterator[Line]:
    """Words of every line of a page's shell blocks, without comments."""
    for block in blocks(page):
        if block.language in ("bash", ""):
            for line in block.text.replace("\\\n", " ").splitlines():
                if words := shlex.split(line, comments=True):
                    yield Line(page, block.marked, words)


def module(words: list[str]) -> int | None:
    """Where the name of one of our modules stands in a line: after `python -m`, or that of a launcher."""
    names = [i for i, word in enumerate(words) if word.startswith("fomo_ssl.") and words[i - 1] == "-m"]
    return names[0] if names and words[0] in ("python", "torchrun", "srun") else None


def parse(name: str, arguments: list[str]) -> None:
    """Have a command's own parser read plain flags, where it shows one; a mistake is an error."""
    spec = importlib.util.find_spec(f"fomo_ssl.{name}")
    package = ".__main__" if spec is not None and spec.submodule_search_locations else ""
    parser = getattr(importlib.import_module(f"fomo_ssl.{name}{package}"), "parser", None)
    if parser is not None:
        parser().parse_args(arguments)


LINES = [line for page in PAGES for line in shell_lines(page)]
ALL = [(line.page, line.words[at:]) for line in LINES if (at := module(line.words)) is not None]
ALL = [(page, [name.removeprefix("fomo_ssl."), *words]) for page, (name, *words) in ALL]
# Of the documentation, whatever is not plainly `python -m fomo_ssl.NAME`.
OTHER = [line for line in LINES if line.page.name != "README.md" and module(line.words) != 2]
OTHER += [Line(page, False, shlex.split(text)) for page in PAGES for text in _SCRIPT.findall(page.read_text())]


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


@contextlib.contextmanager
def parsing_only(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[argparse.Namespace]]:
    """A script's own parser reads its words, and that is where the script ends."""
    parsed: list[argparse.Namespace] = []

    def parse_and_stop(parser: argparse.ArgumentParser, *arguments: Any) -> argparse.Namespace:
        options, unknown = parser.parse_known_args(*arguments)
        assert not unknown, f"{unknown} are no options of {sys.argv[0]}"
        parsed.append(options)
        raise StopIteration

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_and_stop)
    with contextlib.suppress(StopIteration):
        yield parsed


def check_script(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    script = words[1] if words[1] != "-m" else f"{words[2].replace('.', '/')}.py"
    name = script.removesuffix(".py").replace("/", ".")
    assert (ROOT / script).is_file(), f"{script} is not there"
    monkeypatch.syspath_prepend(str(ROOT))
    arguments = words[2 if words[1] != "-m" else 3 :]
    monkeypatch.setattr(sys, "argv", [script, *arguments])
    if "argparse" not in (ROOT / script).read_text():
        assert not arguments
        return
    with parsing_only(monkeypatch) as parsed:
        importlib.import_module(name).main()
    assert parsed


def is_script(line: Line) -> bool:
    return line.words[0] == "python" and any(word.startswith("benchmarks") for word in line.words[1:3])


@pytest.mark.parametrize(
    "line",
    [
        # Scripts import the peers that they measure.
        pytest.param(
            line, marks=pytest.mark.slow if is_script(line) else (), id=f"{line.page.stem}-{n}-{line.words[0]}"
        )
        for n, line in enumerate(OTHER)
    ],
)
def test_line_of_another_program_is_checked_or_marked(line: Line, monkeypatch: pytest.MonkeyPatch):
    program, *arguments = line.words
    if (at := module(line.words)) is not None:  # what it starts is among the commands above
        if program == "torchrun":
            assert get_args_parser().parse_args(arguments).module
        else:
            assert program == "srun"
            assert all(word.startswith("--") for word in line.words[1 : at - 2])
            assert line.words[at - 2] == "python"
    elif is_script(line):
        check_script(line.words, monkeypatch)
    elif program == "export":
        variable = arguments[0].partition("=")[0]
        assert any(f'"{variable}"' in file.read_text() for file in (ROOT / "fomo_ssl").rglob("*.py"))
    elif program == "pip":
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        assert re.fullmatch(r"fomo_ssl\[(\w+)\]", arguments[1])[1] in extras
    else:
        assert line.marked, f"{line.page.name}: nothing checks {shlex.join(line.words)}, and no mark says why"


@pytest.mark.parametrize("page", PAGES[1:], ids=lambda page: page.stem)
def test_every_block_says_what_it_is(page: Path):
    assert {block.language for block in blocks(page)} <= {"python", "bash", "yaml", "text"}
    assert len(blocks(page)) * 2 == len(re.findall(r"^\s*```", page.read_text(), flags=re.MULTILINE))


@pytest.mark.slow
def test_the_tutorials_run_from_top_to_bottom(tmp_path: Path):
    for page in TUTORIALS:
        for _, language, text in blocks(page):
            program = ["bash", "-e", "-c", text] if language == "bash" else [sys.executable, "-c", text]
            path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
            environment = {"PATH": path, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "HOME": str(tmp_path)}
            done = subprocess.run(program, check=False, cwd=tmp_path, env=environment, capture_output=True, text=True)
            assert done.returncode == 0, f"{page.name}: {text}\n{done.stderr[-2000:]}"
    age = float((tmp_path / "age.txt").read_text())
    assert 0 < age < 120
    assert (tmp_path / "report" / "report.html").is_file()
    assert (tmp_path / "data_report.html").is_file()
