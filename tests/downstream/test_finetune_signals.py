"""What a user's Ctrl-C and a scheduler's SIGTERM do to a finetuning."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest


def finished(run: Path) -> int:
    return len(list(run.glob("units/*/result.json")))


def begin(task: Path, bundle: Path, run: Path, parallel: int, steps: int = 100_000) -> subprocess.Popen[str]:
    """A finetuning in a process group of its own, that would last for ever."""
    words = [f"bundle={bundle}", f"task={task}", f"run={run}", "shots=[1,2]", "seeds=2", "n_test=2", "crop=16"]
    words += [f"steps={steps}", "batch_size=2", "precision=32-true", f"parallel={parallel}", "resume=auto"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "fomo_ssl.finetune", *words]
    # A shell's background jobs, such as the one that runs these tests, ignore Ctrl-C, and so would what they start.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True, env=environment)
    finally:
        signal.signal(signal.SIGINT, before)


def processes(group: int) -> list[int]:
    """Those that are left of a group, without the ones that have ended and wait for their parent."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[2]) == group and fields[0] != "Z":
            found.append(int(folder.name))
    return found


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="counts processes in /proc")
@pytest.mark.parametrize(
    ("parallel", "number", "code", "to_all"),
    [
        pytest.param(1, signal.SIGTERM, 143, False, id="sigterm alone"),
        pytest.param(2, signal.SIGINT, 130, True, id="ctrl-c side by side"),
        pytest.param(1, signal.SIGINT, 130, True, id="ctrl-c alone", marks=pytest.mark.slow),
        pytest.param(2, signal.SIGTERM, 143, True, id="sigterm to all", marks=pytest.mark.slow),
        pytest.param(2, signal.SIGTERM, 143, False, id="sigterm side by side", marks=pytest.mark.slow),
    ],
)
def test_a_signal_ends_it_at_once(make_task, bundle, tmp_path: Path, parallel, number, code, to_all) -> None:
    """A terminal signals the whole group, a scheduler often the first process alone."""
    run = tmp_path / "run"
    process = begin(make_task("segmentation", 6), bundle, run, parallel)
    try:
        until = time.monotonic() + 120
        while len(list(run.glob("units/*"))) < parallel and time.monotonic() < until:
            time.sleep(0.1)
        time.sleep(2.0)
        assert process.poll() is None
        (os.killpg if to_all else os.kill)(process.pid, number)
        said = process.communicate(timeout=60)[1]
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    assert process.returncode == code
    assert "stopped after 0 of 8 units; continue with resume=auto" in said
    assert "Traceback" not in said
    until = time.monotonic() + 20
    while processes(process.pid) and time.monotonic() < until:
        time.sleep(0.1)
    assert not processes(process.pid)
    assert finished(run) == 0


def test_a_unit_s_process_that_dies_is_one_line(make_task, bundle, tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = begin(make_task("segmentation", 6), bundle, run, 2)
    try:
        until = time.monotonic() + 120
        while len(list(run.glob("units/*"))) < 2 and time.monotonic() < until:
            time.sleep(0.1)
        workers = [
            int(folder.name)
            for folder in Path("/proc").glob("[0-9]*")
            if (folder / "cmdline").exists() and b"spawn_main" in (folder / "cmdline").read_bytes()
            and os.getpgid(int(folder.name)) == process.pid
        ]  # fmt: skip
        os.kill(workers[0], signal.SIGKILL)
        said = process.communicate(timeout=60)[1]
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    assert process.returncode == 2
    assert "the process of a unit died; often memory ran out" in said
    assert "Traceback" not in said
