import subprocess
import sys
from pathlib import Path

import pytest

from fomo_ssl.__main__ import COMMANDS

SLOW_TO_IMPORT = ("torch", "lightning", "monai", "timm", "nilearn", "matplotlib")


def python(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, cwd=cwd)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_works_anywhere_and_loads_nothing_slow(name: str, tmp_path: Path) -> None:
    done = python("-X", "importtime", "-m", f"fomo_ssl.{name}", "--help", cwd=tmp_path)
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert done.returncode == 0, done.stderr
    assert "usage" in done.stdout.lower()
    assert len(done.stdout.splitlines()) > 4 or name == "doctor"
    assert not imported & set(SLOW_TO_IMPORT)
    assert not list(tmp_path.iterdir())


def test_fomo_ssl_lists_the_commands_and_hands_over() -> None:
    listed = python("-m", "fomo_ssl")
    assert listed.returncode == 0
    assert all(name in listed.stdout for name in COMMANDS)
    assert "--bundle" in python("-m", "fomo_ssl", "predict", "--help").stdout


MISTAKES: dict[str, tuple[tuple[str, ...], str]] = {
    "unknown command": (("pretrian",), "Did you mean pretrain?"),
    "preprocess without a store": (("preprocess", "source=."), "store"),
    "preprocess what is not there": (("preprocess", "source=nowhere", "store=out"), "nowhere"),
    "pretrain from a store that is missing": (("pretrain", "store=nowhere", "run=out"), "nowhere"),
    "pretrain an unknown encoder": (("pretrain", "store=nowhere", "encoder=vit_q"), "vit_q"),
    "pretrain with a misspelt key": (("pretrain", "store=nowhere", "objektive=mae"), "objective"),
    "finetune a bundle that is missing": (("finetune", "bundle=nowhere", "task=task.csv", "run=out"), "task.csv"),
    "finetune without a task": (("finetune", "bundle=nowhere"), "task"),
    "finetune on a folder without labels": (("finetune", "bundle=nowhere", "task=.", "run=out"), "labels"),
    "evaluate nothing": (("evaluate", "runs=nowhere/*"), "nothing matches"),
    "predict without a bundle": (("predict", "--output", "x.txt"), "--bundle"),
    "predict with a bundle that is missing": (("predict", "--bundle", "nowhere", "--output", "x.txt"), "nowhere"),
    "embed with a bundle that is missing": (
        ("embed", "a.nii.gz", "--bundle", "nowhere", "--output", "x.csv"),
        "nowhere",
    ),
    "embed without scans": (("embed", "--bundle", "nowhere", "--output", "x.csv"), "scans"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_bad_input_is_one_line_and_exit_code_2(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In this process: a process of its own for each would spend its time on importing torch."""
    from fomo_ssl.__main__ import main

    arguments, message = MISTAKES[name]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["fomo-ssl", *arguments])
    with pytest.raises(SystemExit) as stop:
        main()
    err = capsys.readouterr().err
    assert stop.value.code == 2
    assert err.startswith("fomo_ssl: ")
    assert err.count("\n") == 1
    assert message in err


def test_a_process_ends_with_that_code_and_line(tmp_path: Path) -> None:
    done = python("-m", "fomo_ssl.evaluate", "runs=nowhere", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "fomo_ssl: nowhere: nothing matches. give runs=PATH or runs='FOLDER/*'\n"
