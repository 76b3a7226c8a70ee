"""Run a build context's predict.py on cases, as the organisers' validator runs the container, and judge it.

It runs as a process of its own from the folder, on the CPU, with the folder's code and weights and this machine's
packages. Any try of Python to reach a network is noted and fails.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fomo_ssl.challenge.context import FACTS
from fomo_ssl.challenge.contract import SESSION, TASKS, TIME_LIMIT, ChallengeTask
from fomo_ssl.challenge.outputs import judge
from fomo_ssl.core.errors import ConfigError, TaskError

_RECIPES = ("Apptainer.def", "Dockerfile")
_IN_IMAGE = ("/app", "/input", "/output", "predict.py /app/predict.py")
# Python imports a module of this name when it starts. Names of local sockets are text and no network.
_GUARD = """
import os, sys

def _note(event, details):
    if event in ("socket.getaddrinfo", "socket.gethostbyname", "socket.connect", "socket.sendto"):
        target = details[1] if event in ("socket.connect", "socket.sendto") else details[0]
        if not (event == "socket.connect" and isinstance(target, (str, bytes))):
            with open(os.environ["FOMO_SSL_NETWORK_LOG"], "a") as file:
                print(event, target, file=file)
            raise OSError("no network in the container")

sys.addaudithook(_note)
"""


@dataclass(frozen=True)
class Check:
    """One line of the table; `seconds` where something ran."""

    name: str
    found: str
    wrong: tuple[str, ...] = ()
    seconds: float | None = None


@dataclass(frozen=True)
class Ran:
    """How a process ended; `code` is None where it was stopped at the limit."""

    code: int | None
    seconds: float
    stderr: str


def check(context: Path, cases: Path, *, limit: float = TIME_LIMIT, outputs: Path | None = None) -> Iterator[Check]:
    """Check the recipes, every case, and what is said about wrong input.

    Args:
        context: folder that `build` wrote.
        cases: `DATA/preprocessed/sub_X/ses_1/*.nii.gz`, or the folder of the subjects itself.
        limit: seconds a case.
        outputs: where predictions are kept; None keeps none.

    Raises:
        ConfigError: no build context.
        TaskError: no cases.
    """
    task = find_task(context)
    subjects = find_subjects(cases)
    yield _paths(context)
    with tempfile.TemporaryDirectory() as temporary:
        folder, run = outputs or Path(temporary) / "output", _Runner(Path(temporary))
        folder.mkdir(parents=True, exist_ok=True)
        slowest = 0.0
        for subject in subjects:
            line = _case(task, context, subject, folder, limit, run)
            slowest = max(slowest, line.seconds or 0.0)
            yield line
        yield Check(
            "slowest case", f"{slowest:.1f} s of {limit:g} s, {_machine()}", () if slowest <= limit else ("late",)
        )
        yield from _mistakes(task, context, find_scans(task, subjects[0]), folder, limit, run)
        log = run.network_log.read_text().split("\n")[:-1] if run.network_log.exists() else []
        yield Check("network", log[0] if log else "nothing tried", (f"{len(log)} tries",) if log else ())


def find_task(context: Path) -> ChallengeTask:
    """The task of a build context.

    Raises:
        ConfigError: it is none.
    """
    try:
        return TASKS[json.loads((context / FACTS).read_text())["task"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        way_out = "Make one with python -m fomo_ssl.challenge build"
        raise ConfigError("no build context", where=context, way_out=way_out) from error


def find_subjects(cases: Path) -> list[Path]:
    """The folders of the subjects.

    Raises:
        TaskError: there are none.
    """
    root = cases / "preprocessed" if (cases / "preprocessed").is_dir() else cases
    subjects = sorted(folder for folder in root.glob("*") if (folder / SESSION).is_dir())
    if not subjects:
        way_out = f"Give a folder with preprocessed/sub_X/{SESSION}/*.nii.gz"
        raise TaskError("no cases", where=cases, way_out=way_out)
    return subjects


def find_scans(task: ChallengeTask, subject: Path) -> dict[str, Path]:
    """Scan by flag, as the validator finds them: the first flag whose name is part of the file's."""
    found: dict[str, Path] = {}
    for path in sorted((subject / SESSION).glob("*.nii.gz")):
        flag = next((name for name in sorted(task.flags) if name in path.name.lower()), None)
        if flag is not None:
            found[flag] = path
    return found


class _Runner:
    """Runs predict.py of a context with a guard against the network."""

    def __init__(self, folder: Path) -> None:
        self.network_log, self._guard = folder / "network.log", folder / "guard"
        self._guard.mkdir()
        (self._guard / "sitecustomize.py").write_text(_GUARD)

    def __call__(self, context: Path, scans: Mapping[str, Path], output: Path, limit: float) -> Ran:
        flags = [word for name, path in scans.items() for word in (f"--{name}", str(path.resolve()))]
        command = [sys.executable, str(context.resolve() / "predict.py"), *flags, "--output", str(output.resolve())]
        environment = {
            **os.environ,
            "PYTHONPATH": str(self._guard),
            "PYTHONDONTWRITEBYTECODE": "1",
            "CUDA_VISIBLE_DEVICES": "",
            "FOMO_SSL_NETWORK_LOG": str(self.network_log),
        }
        since = time.monotonic()
        try:
            done = subprocess.run(
                command, env=environment, cwd=output.parent, capture_output=True, text=True, timeout=limit, check=False
            )
        except subprocess.TimeoutExpired:
            return Ran(None, time.monotonic() - since, "")
        return Ran(done.returncode, time.monotonic() - since, done.stderr.strip())


def _paths(context: Path) -> Check:
    wrong = [] if (context / "predict.py").is_file() else ["predict.py is missing"]
    for recipe in _RECIPES:
        text = (context / recipe).read_text() if (context / recipe).is_file() else ""
        wrong += [f"{recipe} does not make {place}" for place in _IN_IMAGE if place not in text]
    return Check("recipes", "/app /input /output /app/predict.py", tuple(wrong))


def _case(task: ChallengeTask, context: Path, subject: Path, folder: Path, limit: float, run: _Runner) -> Check:
    scans = find_scans(task, subject)
    if len(scans) < task.least:
        return Check(subject.name, " ".join(scans), (f"{len(scans)} scans, the task has {task.least}",))
    output = folder / f"{subject.name}{task.suffix}"
    output.unlink(missing_ok=True)
    ran = run(context, scans, output, limit)
    if ran.code is None:
        return Check(subject.name, "stopped", (f"over {limit:g} s",), ran.seconds)
    if ran.code != 0:
        last = (ran.stderr.splitlines() or ["nothing said"])[-1]
        return Check(subject.name, f"exit code {ran.code}", (last,), ran.seconds)
    found, wrong = judge(task, output, scans)
    said = [line for line in ran.stderr.splitlines() if line.startswith("fomo_ssl: ")]
    return Check(subject.name, "; ".join([f"{found} from {' '.join(scans)}", *said]), tuple(wrong), ran.seconds)


def _mistakes(
    task: ChallengeTask, context: Path, scans: Mapping[str, Path], folder: Path, limit: float, run: _Runner
) -> Iterator[Check]:
    """Wrong input has to end in one line and an exit code that is not 0, without an output."""
    broken = run.network_log.with_name("broken.nii.gz")
    broken.write_bytes(b"no image")
    for name, given in {
        "no scans": {},
        "missing file": dict.fromkeys(scans, folder / "nowhere.nii.gz"),
        "broken file": dict.fromkeys(scans, broken),
    }.items():
        output = folder / f"mistake{task.suffix}"
        output.unlink(missing_ok=True)
        ran = run(context, given, output, limit)
        lines = ran.stderr.splitlines()
        wrong = [] if ran.code else ["no exit code that says so"]
        wrong += [] if len(lines) == 1 else [f"{len(lines)} lines of error"]
        if output.exists():
            wrong.append("an output all the same")
            output.unlink()
        yield Check(name, f"exit code {ran.code}: {lines[-1] if lines else ''}", tuple(wrong), ran.seconds)


def _machine() -> str:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = os.environ.get("OMP_NUM_THREADS")
    return f"on the CPU, {cores} cores" + (f", {threads} threads" if threads else "")


def failed(checks: Sequence[Check]) -> list[str]:
    """Names of the checks that failed."""
    return [line.name for line in checks if line.wrong]
