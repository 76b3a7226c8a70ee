"""A job that submitit preempts saves, is requeued, and ends where an undisturbed one does."""

import os
import signal
import time
from pathlib import Path

import pytest
import submitit
import torch
from submitit.helpers import DelayedSubmission
from training_runs import file_digests, small_run

from fomo_ssl.training.checkpoint import checkpoint_files, samples_of

# More steps than pass before a signal arrives, and no checkpoint but those at a signal and at the end.
LONG = {"objective": "mae", "encoder": "vit", "samples": 160, "checkpoint_every": 1000, "preview_every": 160}


class Job:
    """As the launcher of Hydra submits it: called again with the same arguments."""

    def __call__(self, store: str, run: str) -> None:
        (Path(run) / "pid").write_text(str(os.getpid()))
        begun = Path(run) / "begun"
        begun.mkdir(parents=True, exist_ok=True)
        found = checkpoint_files(Path(run) / "out/checkpoints")
        (begun / str(samples_of(found[0]) if found else 0)).touch()
        small_run(Path(store), Path(run) / "out", resume="auto", **LONG)

    def checkpoint(self, *arguments: str) -> DelayedSubmission:
        return DelayedSubmission(self, *arguments)


def test_a_preempted_job_saves_and_is_requeued(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
    monkeypatch.setenv("OMP_NUM_THREADS", str(torch.get_num_threads()))  # more of them change the last bits
    executor = submitit.LocalExecutor(tmp_path / "logs")
    executor.update_parameters(timeout_min=60)
    job = executor.submit(Job(), str(store), str(tmp_path))
    log = tmp_path / "out/metrics.csv"
    while not (log.exists() and len(log.read_text().splitlines()) > 2) and job.state != "FINISHED":
        time.sleep(0.01)
    os.kill(int((tmp_path / "pid").read_text()), signal.SIGUSR2)  # as SLURM does before it preempts
    job.result()
    first, again = sorted(int(file.name) for file in (tmp_path / "begun").iterdir())
    assert first == 0
    assert 0 < again < 160
    undisturbed = small_run(store, tmp_path / "undisturbed", **LONG)
    assert file_digests(tmp_path / "out/bundle") == file_digests(undisturbed.bundle)
