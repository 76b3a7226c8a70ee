import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

_PARENT = """
import multiprocessing, os, sys, time
from concurrent.futures import ProcessPoolExecutor
from fomo_ssl.core.processes import end_with_parent

def work(path):
    with open(path, "w") as file:
        file.write(str(os.getpid()))
    os.replace(path, path + ".pid")
    time.sleep(600)

if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context, initializer=end_with_parent) as pool:
        pool.submit(work, sys.argv[1]).result()
"""


def alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at /proc")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_worker_ends_with_a_parent_that_is_killed(tmp_path: Path, number: signal.Signals) -> None:
    script, told = tmp_path / "parent.py", tmp_path / "worker.pid"
    script.write_text(_PARENT)
    parent = subprocess.Popen([sys.executable, str(script), str(told.with_suffix(""))])
    while not told.exists():
        assert parent.poll() is None
        time.sleep(0.02)
    worker = int(told.read_text())
    assert alive(worker)
    parent.send_signal(number)
    parent.wait()
    for _ in range(1000):
        if not alive(worker):
            return
        time.sleep(0.02)
    os.kill(worker, signal.SIGKILL)
    pytest.fail("the worker outlived its parent")


def test_outside_of_a_worker_it_does_nothing() -> None:
    from fomo_ssl.core.processes import end_with_parent

    assert multiprocessing.parent_process() is None
    end_with_parent()
