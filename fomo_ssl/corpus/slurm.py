"""Preprocessing as an array of SLURM tasks, through submitit: each works on a share of the files and commits shards.

The main process plans, waits and finishes the store. It may be killed: tasks that ran meanwhile have committed what
they did, and the next run goes on with what is missing.
"""

import json
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from fomo_ssl.core.errors import FomoSSLError
from fomo_ssl.core.files import write_json

J = TypeVar("J")

LOGS = "slurm_logs"
_RUNNING = "slurm_jobs.json"
_POLL_SECONDS = 2.0


@dataclass(frozen=True)
class SlurmConfig:
    """How the array is asked for.

    Attributes:
        tasks: size of the array.
        parallel: tasks that may run at once.
        cpus, memory_gb, minutes: of each task; every core is one worker.
        partition, account: as the cluster calls them; None takes its default.
        parameters: further options of `sbatch`, such as {"qos": "low", "constraint": "ssd"}.
        cluster: `local` runs the tasks as processes of this machine, to try it.
    """

    tasks: int = 32
    parallel: int = 32
    cpus: int = 8
    memory_gb: int = 32
    minutes: int = 720
    partition: str | None = None
    account: str | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    cluster: Literal["slurm", "local"] = "slurm"


def run_array(
    function: Callable[[str, list[J], int], None], jobs: Sequence[J], folder: Path, slurm: SlurmConfig
) -> Generator[int, None, None]:
    """Run `function(name, share of the jobs, workers)` in every task of an array; yields once a task that ended well.

    Shares are interleaved, so that a folder of large scans is spread over all tasks.

    Args:
        function: what a task does; it must be importable, and safe to repeat.
        jobs: all jobs.
        folder: of logs, on a disk that all nodes see.
        slurm: the array.

    Raises:
        FomoSSLError: submitit is not installed, SLURM refuses, or tasks failed.
    """
    try:
        import submitit
    except ImportError as error:
        way_out = "Install fomo_ssl[slurm], or use executor=local"
        raise FomoSSLError("executor=slurm needs submitit", way_out=way_out) from error
    tasks = min(slurm.tasks, len(jobs))
    logs = folder / LOGS
    try:
        executor = submitit.AutoExecutor(logs, cluster=slurm.cluster)
    except RuntimeError as error:
        raise FomoSSLError(f"SLURM cannot be used: {error}", way_out="Run this where sbatch is found") from error
    executor.update_parameters(**_parameters(slurm))
    names, shares = [f"task{n:05d}" for n in range(tasks)], [list(jobs[n::tasks]) for n in range(tasks)]
    running = executor.map_array(function, names, shares, [slurm.cpus] * tasks)
    write_json(
        folder / _RUNNING, {"cluster": slurm.cluster, "ids": sorted({job.job_id.split("_")[0] for job in running})}
    )
    waiting = set(range(tasks))
    failed: list[tuple[Path, str]] = []
    try:
        while waiting:
            for n in sorted(waiting):
                if not running[n].done():
                    continue
                waiting.remove(n)
                trouble = running[n].exception()
                if trouble is None:
                    yield n
                else:
                    failed.append((running[n].paths.stderr, _gist(str(trouble))))
            if waiting:
                time.sleep(_POLL_SECONDS)
    finally:
        for n in waiting:
            running[n].cancel()
        (folder / _RUNNING).unlink(missing_ok=True)
    if failed:
        log, gist = failed[0]
        what = f"{len(failed)} of {tasks} tasks failed, the first with {gist}"
        raise FomoSSLError(what, where=log, way_out="Run the same command again: it goes on with what is missing")
    shutil.rmtree(logs, ignore_errors=True)


def cancel_forgotten(folder: Path) -> None:
    """Cancel an array whose main process was killed: two arrays would do the same work."""
    file = folder / _RUNNING
    if not file.is_file():
        return
    record = json.loads(file.read_text())
    if record["cluster"] == "slurm" and shutil.which("scancel"):
        subprocess.run(["scancel", *record["ids"]], check=False)
    file.unlink()


def _gist(report: str) -> str:
    """The line of submitit's report that names the exception, or its first line where the task left none."""
    lines = report.strip().splitlines()
    named = [line for line in lines if re.match(r"[\w.]+(Error|Exception|Interrupt)\b", line)]
    return (named or lines)[-1 if named else 0]


def _parameters(slurm: SlurmConfig) -> dict[str, Any]:
    common: dict[str, Any] = {
        "name": "fomo_ssl_preprocess",
        "timeout_min": slurm.minutes,
        "cpus_per_task": slurm.cpus,
        "mem_gb": slurm.memory_gb,
    }
    if slurm.cluster == "local":
        return common
    own = {"slurm_array_parallelism": slurm.parallel, "slurm_additional_parameters": dict(slurm.parameters)}
    named = {f"slurm_{key}": value for key in ("partition", "account") if (value := getattr(slurm, key)) is not None}
    return common | own | named
