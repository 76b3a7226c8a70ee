"""Commands in processes of their own, undisturbed ones to compare with, and small disks: what data_faults needs."""

import contextlib
import functools
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from fomo_ssl.core.files import is_stray
from fomo_ssl.corpus.description import describe
from fomo_ssl.training.checkpoint import AtomicCheckpointIO, checkpoint_files, samples_of

SAMPLES, EVERY, CROP, BATCH = 800, 160, 32, 8
AHEAD = 2 * 2 * BATCH  # samples that two workers have read before training asks for them
RECIPE = f"encoder=vit_t_p8 objective=mae crop={CROP} batch_size={BATCH} budget.samples={SAMPLES} resume=auto"
SETTINGS = f"checkpoint_every={EVERY} preview_every={SAMPLES} health.enabled=false data.workers=2"
UNITS = "shots=1 seeds=2 n_test=2 steps=20 spacing=4 parallel=2 precision=32-true resume=auto"
SCANS, SUBJECTS = 16, 4  # to preprocess, and to finetune on
SAID = re.compile(r"^fomo_ssl: .*|.*another scan takes its place.*|^Traceback.*|.*Error:.*", re.MULTILINE)
# The same bits want the same threads and the same device.
SURROUNDINGS = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}

Checks = dict[str, bool]


class Command:
    """A command of fomo_ssl that runs."""

    def __init__(self, log: Path, name: str, *values: str, inside: Sequence[str] = ()) -> None:
        self.log, self.output = log.with_suffix(".log"), log.with_suffix(".out")
        words = [*inside, sys.executable, "-m", f"fomo_ssl.{name}", *values]
        with self.log.open("wb") as log_file, self.output.open("wb") as output:
            self.process = subprocess.Popen(words, stdout=output, stderr=log_file, env=SURROUNDINGS)

    def until(self, moment: Callable[[], bool]) -> "Command":
        while not moment():
            if self.process.poll() is not None:
                raise SystemExit(f"ended before its fault: {self.log.read_text()}")
            time.sleep(0.005)
        return self

    def kill_worker(self) -> None:
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        workers = [int(c) for c in children if b"resource_tracker" not in Path(f"/proc/{c}/cmdline").read_bytes()]
        os.kill(workers[0], signal.SIGKILL)

    def end(self) -> tuple[int, list[str]]:
        """Exit code, and the lines that are said to people."""
        return self.process.wait(), SAID.findall(self.log.read_text())


@dataclass(frozen=True)
class Setting:
    """What is not disturbed, and where the disturbed is made."""

    store: Path
    source: Path
    scratch: Path

    def pretrain(self, run: Path, store: Path | None = None, inside: Sequence[str] = ()) -> Command:
        places = (f"store={store or self.store}", f"run={run}")
        return Command(run, "pretrain", *places, *RECIPE.split(), *SETTINGS.split(), inside=inside)

    def preprocess(self, store: Path) -> Command:
        return Command(store, "preprocess", f"source={self.few}", f"store={store}", "spacing=2", "workers=2")

    def finetune(self, run: Path) -> Command:
        places = (f"bundle={self.scratch / 'whole/bundle'}", f"task={self.task}", f"run={run}")
        return Command(run, "finetune", *places, *UNITS.split())

    @functools.cached_property
    def few(self) -> Path:
        """The first scans of the source."""
        folder = self.scratch / "source"
        for scan in sorted(self.source.rglob("*.nii.gz"))[:SCANS]:
            target = folder / scan.relative_to(self.source)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(scan, target)
        return folder

    @functools.cached_property
    def task(self) -> Path:
        """Ages of the first subjects who have one."""
        scans = {s.row.subject: s for s in describe(self.source) if s.metadata.age and s.row.sequence == "t1"}
        lines = [f"{self.source / s.row.path},{s.metadata.age}" for s in list(scans.values())[:SUBJECTS]]
        table = self.scratch / "ages.csv"
        table.write_text("image,label\n" + "\n".join(lines) + "\n")
        return table

    @functools.cached_property
    def bundle(self) -> dict[str, bytes]:
        return contents(undisturbed(self.pretrain, self.scratch / "whole") / "bundle")

    @functools.cached_property
    def made(self) -> dict[str, bytes]:
        return contents(undisturbed(self.preprocess, self.scratch / "made"))

    @functools.cached_property
    def models(self) -> dict[str, bytes]:
        return models(undisturbed(self.finetune, self.scratch / "finetuned"))


def undisturbed(command: Callable[[Path], Command], folder: Path) -> Path:
    code, said = command(folder).end()
    if code:
        raise SystemExit(f"an undisturbed run ended with {code}: {said}")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def models(run: Path) -> dict[str, bytes]:
    kept = ("predictions.csv", "encoder.safetensors", "head.safetensors", "task.json")
    return {name: data for name, data in contents(run / "units").items() if Path(name).name in kept}


def clean(folder: Path) -> Checks:
    return {"no temporary file": not any(map(is_stray, folder.rglob("*")))}


def saved(run: Path) -> Callable[[], bool]:
    return lambda: bool(checkpoint_files(run / "checkpoints"))


def went_on(setting: Setting, run: Path) -> Checks:
    """What is left of a pretraining that broke off, and what becomes of it."""
    newest = checkpoint_files(run / "checkpoints")[0]
    whole = bool(AtomicCheckpointIO().load_checkpoint(newest)["state_dict"])
    same = setting.pretrain(run).end() == (0, []) and contents(run / "bundle") == setting.bundle
    kept = f"the checkpoint after {samples_of(newest)} samples loads"
    return {kept: whole, "the same command ends in the undisturbed bundle, bit for bit": same} | clean(run)


@contextlib.contextmanager
def small_disk(folder: Path, size: int) -> Iterator[Callable[[], None]]:
    """A file system of so many bytes in a new folder; the function that is given makes room."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "tmpfs", str(folder), "-o"]
    subprocess.run([*mount, f"size={size}"], check=True)
    try:
        yield lambda: subprocess.run(["mount", "-o", "remount,size=8g", str(folder)], check=True) and None
    finally:
        subprocess.run(["umount", str(folder)], check=True)
