"""An array of tasks, run by submitit as processes of this machine: the same code but for `sbatch`."""

import json
import shutil
from pathlib import Path

import pytest

from fomo_ssl.core.errors import FomoSSLError
from fomo_ssl.corpus import slurm
from fomo_ssl.corpus.preprocess import preprocess
from fomo_ssl.corpus.slurm import SlurmConfig, cancel_forgotten, run_array
from fomo_ssl.imaging.canonical import CanonicalSpec

SPEC = CanonicalSpec(2.0)
LOCAL = SlurmConfig(tasks=2, cpus=1, minutes=5, cluster="local")


def test_an_array_writes_the_bytes_of_one_process(tree: Path, tmp_path: Path, contents):
    preprocess(tree, tmp_path / "one", SPEC)
    summary = preprocess(tree, tmp_path / "array", SPEC, slurm=LOCAL)
    assert summary.processed == 7
    assert contents(tmp_path / "array") == contents(tmp_path / "one")
    # Nothing is left to do for another array.
    assert preprocess(tree, tmp_path / "array", SPEC, slurm=LOCAL).processed == 0


def test_tasks_that_fail_are_counted_and_their_log_is_named(tmp_path: Path):
    def second_fails(name: str, jobs: list[int], workers: int) -> None:
        (tmp_path / name).write_text(f"{jobs} {workers}")
        if jobs[0] == 1:
            raise ValueError("the node went down")

    with pytest.raises(
        FomoSSLError, match="1 of 2 tasks failed, the first with ValueError: the node went down"
    ) as caught:
        list(run_array(second_fails, [0, 1, 2], tmp_path, LOCAL))
    assert [(tmp_path / f"task0000{n}").read_text() for n in (0, 1)] == ["[0, 2] 1", "[1] 1"]
    assert Path(caught.value.where).is_file()
    assert "Run the same command again" in caught.value.way_out


@pytest.mark.slow
def test_what_failed_is_done_by_the_next_run(tree: Path, tmp_path: Path, contents, monkeypatch):
    preprocess(tree, tmp_path / "one", SPEC)
    real = slurm.run_array

    def broken(function, jobs, folder, config):
        yield from real(function, jobs[:3], folder, config)
        raise FomoSSLError("1 of 2 tasks failed")

    monkeypatch.setattr("fomo_ssl.corpus.preprocess.run_array", broken)
    with pytest.raises(FomoSSLError, match="failed"):
        preprocess(tree, tmp_path / "array", SPEC, slurm=LOCAL)
    assert not (tmp_path / "array/store.json").exists()
    summary = preprocess(tree, tmp_path / "array", SPEC)
    assert summary.processed == 4
    assert contents(tmp_path / "array") == contents(tmp_path / "one")


def test_a_forgotten_array_is_cancelled(tmp_path: Path, monkeypatch):
    calls = []
    monkeypatch.setattr(slurm.shutil, "which", lambda name: name)
    monkeypatch.setattr(slurm.subprocess, "run", lambda command, check: calls.append(command))
    cancel_forgotten(tmp_path)
    (tmp_path / "slurm_jobs.json").write_text(json.dumps({"cluster": "slurm", "ids": ["17", "18"]}))
    cancel_forgotten(tmp_path)
    assert calls == [["scancel", "17", "18"]]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(shutil.which("sbatch") is not None, reason="there is a SLURM here")
def test_without_slurm_it_is_said(tree: Path, tmp_path: Path):
    with pytest.raises(FomoSSLError, match="SLURM cannot be used") as caught:
        preprocess(tree, tmp_path / "store", SPEC, slurm=SlurmConfig())
    assert caught.value.way_out
