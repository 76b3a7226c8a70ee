"""Preprocessing killed at random moments on real scans, loose and in archives: the store of an undisturbed run."""

import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from fomo_ssl.core.seeding import numpy_generator

KILLS = 20
# The command itself, and the command with a commit after every second scan, so that kills find commits behind them.
COMMANDS = (
    ["-m", "fomo_ssl.preprocess"],
    [
        "-c",
        "import sys, fomo_ssl.corpus.preprocess as p; p._SHARD_SCANS = 2; "
        "from fomo_ssl.preprocess import main; main(sys.argv[1:])",
    ],
)


@pytest.fixture(scope="module")
def source(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The 14 smallest sessions of the real scans, every second one as an archive, and a damaged archive."""
    source = tmp_path_factory.mktemp("kills") / "source"
    sessions = sorted(
        (real_data / "fomo_flat").glob("sub_*/ses_*"), key=lambda s: sum(f.stat().st_size for f in s.iterdir())
    )
    for number, session in enumerate(sessions[:14]):
        target = source / session.relative_to(real_data / "fomo_flat")
        target.parent.mkdir(parents=True, exist_ok=True)
        if number % 2:
            shutil.copytree(session, target)
            continue
        with zipfile.ZipFile(target.with_name(f"{target.name}.zip"), "w") as archive:
            for file in sorted(session.iterdir()):
                archive.write(file, f"{session.name}/{file.name}")
    whole = next(source.rglob("*.zip"))
    (whole.with_name("ses_99.zip")).write_bytes(whole.read_bytes()[:1000])
    return source


def start(command: list[str], source: Path, store: Path) -> subprocess.Popen[str]:
    arguments = [f"source={source}", f"store={store}", "spacing=2", "workers=2"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, *command, *arguments], env=dict(os.environ), **quiet)


def finish(command: list[str], source: Path, store: Path) -> None:
    process = start(command, source, store)
    _, errors = process.communicate()
    assert process.returncode == 0, errors


def killed(command: list[str], source: Path, store: Path, progress: float, each: float) -> int:
    """Kill a run between two scans, or in its end; returns how many scans it had written.

    Args:
        progress: scan files to wait for, and a share of `each` to wait further: moments of the run's own work, which
            a busy machine does not shift into its start.
        each: seconds a scan.
    """
    process = start(command, source, store)
    while process.poll() is None and len(list(store.glob("scans/*/*.b2nd"))) < int(progress):
        time.sleep(0.01)
    time.sleep(progress % 1 * each)
    process.kill()
    process.communicate()
    if process.returncode == -signal.SIGKILL:
        return len(list(store.glob("scans/*/*.b2nd")))
    shutil.rmtree(store)
    return killed(command, source, store, 0.9 * progress, each)


@pytest.mark.slow
def test_killed_at_random_moments_the_store_gets_the_same_bytes(
    source: Path, tmp_path: Path, contents: Callable[[Path], dict[str, bytes]]
):
    begun = time.monotonic()
    finish(COMMANDS[0], source, tmp_path / "whole")
    duration, whole = time.monotonic() - begun, contents(tmp_path / "whole")
    scans = sum(name.startswith("scans/") for name in whole)
    written = []
    for number in range(KILLS):
        store, command = tmp_path / f"killed_{number}", COMMANDS[number % 2]
        progress = (scans + 1) * numpy_generator(number, 0, "kill").random()
        written.append(killed(command, source, store, progress, duration / scans))
        finish(command, source, store)
        assert contents(store) == whole, f"kill {number}"
        shutil.rmtree(store)
    print(f"undisturbed {duration:.1f} s, {scans} scans; written before each kill: {written}")
    assert len(set(written)) > 5, "kills at one and the same moment prove little"
