"""What a fault ends in, as whoever runs the commands meets it: one line or a counted substitution, and nothing lost.

    python benchmarks/data_faults.py --store STORE_2MM --source FOMO_FLAT --scratch FOLDER [--only WORD,WORD]

Each row provokes a fault under a real command in a process of its own, on copies of the scans, and then looks: what the
command said, what it wrote down, whether the same command goes on to the bytes of an undisturbed run. Full disks and a
small /dev/shm are file systems of the script's own (`unshare`, no root needed). Exit code 1 where a check fails.
"""

import argparse
import contextlib
import csv
import functools
import json
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
from fomo_ssl.core.types import ViewSpec
from fomo_ssl.corpus.description import describe
from fomo_ssl.corpus.store import Store
from fomo_ssl.training.checkpoint import AtomicCheckpointIO, checkpoint_files, samples_of
from fomo_ssl.training.source import CropSource, DataConfig

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


@dataclass(frozen=True)
class Row:
    """A line of the table; each check is what was found, and whether it was."""

    fault: str
    exit_code: int
    said: list[str]
    checks: Checks


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


def loader_process_killed(setting: Setting) -> Row:
    run = setting.scratch / "loader"
    command = setting.pretrain(run).until(saved(run))
    command.kill_worker()
    code, said = command.end()
    return Row("pretraining: a loader process killed (SIGKILL)", code, said, {"": code == 2} | went_on(setting, run))


def run_killed(setting: Setting) -> Row:
    run = setting.scratch / "run"
    command = setting.pretrain(run).until(saved(run))
    command.process.kill()
    code, said = command.end()
    return Row("pretraining: the run itself killed (SIGKILL)", code, said, {"": code == -9} | went_on(setting, run))


def disk_gone(setting: Setting) -> Row:
    run, store = setting.scratch / "gone", setting.scratch / "gone_store"
    shutil.copytree(setting.store, store)
    command = setting.pretrain(run, store).until(saved(run))
    (store / "scans").rename(store / "elsewhere")
    code, said = command.end()
    return Row("pretraining: all scans gone (disk unmounted)", code, said, {"": code == 2} | went_on(setting, run))


def damaged(setting: Setting, fault: str, damage: Callable[[Path], None]) -> Row:
    """One scan is damaged after the first checkpoint; the run goes on to its end without it."""
    run, store = setting.scratch / fault.split()[1], setting.scratch / f"{fault.split()[1]}_store"
    shutil.copytree(setting.store, store)
    source = CropSource.open(store, DataConfig(), ViewSpec(), (CROP,) * 3, seed=0)
    row = int(source.split.train[0])
    file = store / Store.open(store).index.column("file")[row].as_py()
    asked = [i for i in range(SAMPLES) if row in source.sampler.request(i).rows]
    command = setting.pretrain(run, store).until(saved(run))
    damage(file)
    code, said = command.end()
    late = [i for i in asked if i >= EVERY + 2 * AHEAD]
    with (run / "unreadable.csv").open(newline="") as lines:
        written = [(line["file"], int(line["sample"])) for line in csv.DictReader(lines)]
    record = json.loads((run / "run.json").read_text())
    found = {f"run.json counts {record['unreadable_scans']} scan": bool(late) and record["unreadable_scans"] == 1}
    if written:
        first = written[0][1]
        right = written == [(str(file), first)] and first in asked and EVERY < first <= late[0]
        found[f"unreadable.csv names it and sample {first}, which asked for it"] = right
    ended = record["status"] == "finished" and record["samples"] == SAMPLES
    found[f"all {SAMPLES} samples were trained on"] = ended
    found["the bundle is written"] = contents(run / "bundle").keys() == setting.bundle.keys()
    return Row(f"pretraining: {fault}", code, said, {"": code == 0} | found | clean(run))


def scan_deleted(setting: Setting) -> Row:
    return damaged(setting, "a deleted scan", Path.unlink)


def scan_truncated(setting: Setting) -> Row:
    return damaged(setting, "a truncated scan", lambda file: os.truncate(file, file.stat().st_size // 2))


def scan_bytes_flipped(setting: Setting) -> Row:
    def flip(file: Path) -> None:
        content = bytearray(file.read_bytes())
        content[64::64] = bytes(byte ^ 0xFF for byte in content[64::64])
        file.write_bytes(content)

    return damaged(setting, "every 64th byte of a scan flipped", flip)


def one_byte_flipped(setting: Setting) -> Row:
    """Too little for LZ4 to stumble over: what is there to find it."""
    store = setting.scratch / "byte_store"
    shutil.copytree(setting.store, store)
    file = sorted((store / "scans").glob("*/*"))[0]
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    command = Command(setting.scratch / "byte", "data_report", "--store", str(store), "--verify")
    code, said = command.end()
    named = f"{file}: not the bytes that were written\n" == command.output.read_text()
    return Row("`data_report --verify`: one byte flipped", code, said, {"": code == 2, "the file is named": named})


def small_shared_memory(setting: Setting) -> Row:
    run = setting.scratch / "shm"
    small = 'mount -t tmpfs -o size=64k tmpfs /dev/shm && exec "$@"'
    code, said = setting.pretrain(run, inside=["unshare", "--mount", "sh", "-c", small, "sh"]).end()
    same = contents(run / "bundle") == setting.bundle
    checks = {"": code == 0, "nothing: the undisturbed bundle, bit for bit": same} | clean(run)
    return Row("pretraining: `/dev/shm` of 64 kB, batches of 0.5 MB", code, said, checks)


def disk_full_at_a_checkpoint(setting: Setting) -> Row:
    setting.bundle  # noqa: B018 - made before its checkpoint is measured
    size = checkpoint_files(setting.scratch / "whole/checkpoints")[0].stat().st_size
    run = setting.scratch / "full_run"
    with small_disk(run, int(1.5 * size)) as grow:
        code, said = setting.pretrain(run).end()
        grow()
        checks = {"": code == 2} | went_on(setting, run)
    return Row(f"pretraining: room for 1.5 checkpoints of {size / 1e6:.0f} MB", code, said, checks)


def disk_full_in_preprocessing(setting: Setting) -> Row:
    store = setting.scratch / "full_store"
    with small_disk(store, sum(map(len, setting.made.values())) // 2) as grow:
        code, said = setting.preprocess(store).end()
        grow()
        checks = {"": code == 2} | remade(setting, store)
    return Row("preprocessing: room for half of the store", code, said, checks)


def preprocessing_process_killed(setting: Setting) -> Row:
    store = setting.scratch / "killed_store"
    command = setting.preprocess(store).until(lambda: len(list(store.glob("scans/*/*.b2nd"))) >= SCANS // 2)
    command.kill_worker()
    code, said = command.end()
    checks = {"": code == 2} | remade(setting, store)
    return Row("preprocessing: a worker process killed (SIGKILL)", code, said, checks)


def remade(setting: Setting, store: Path) -> Checks:
    """What is left of a preprocessing that broke off, and what becomes of it."""
    none = not (store / "store.json").exists()
    before = {file: file.stat().st_mtime_ns for file in store.glob("scans/*/*.b2nd")}
    same = setting.preprocess(store).end() == (0, []) and contents(store) == setting.made
    kept = sum(file.stat().st_mtime_ns == changed for file, changed in before.items())
    checks = {"no half store opens": none, f"{kept} of {SCANS} scans done before are kept": 0 < kept < SCANS}
    return checks | {"the same command ends in the undisturbed store, bit for bit": same} | clean(store)


def finetuning_process_killed(setting: Setting) -> Row:
    setting.bundle, setting.models  # noqa: B018
    run = setting.scratch / "killed_units"
    results = "units/*/result.json"
    command = setting.finetune(run).until(lambda: bool(list(run.glob(results))))
    command.kill_worker()
    code, said = command.end()
    before = {file: file.stat().st_mtime_ns for file in run.glob(results)}
    same = setting.finetune(run).end() == (0, []) and models(run) == setting.models
    kept = sum(file.stat().st_mtime_ns == changed for file, changed in before.items())
    units = len(list(run.glob(results)))
    checks = {"": code == 2, f"{kept} of {units} units done before are kept": 0 < kept < units}
    checks |= {"the same command ends in the undisturbed models and predictions, bit for bit": same} | clean(run)
    return Row("finetuning: the process of a unit killed (SIGKILL)", code, said, checks)


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


FAULTS = (
    loader_process_killed,
    run_killed,
    scan_deleted,
    scan_truncated,
    scan_bytes_flipped,
    one_byte_flipped,
    disk_gone,
    small_shared_memory,
    disk_full_at_a_checkpoint,
    disk_full_in_preprocessing,
    preprocessing_process_killed,
    finetuning_process_killed,
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    for name in ("store", "source", "scratch"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--only", help="comma-separated parts of names of faults")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not options.inside:  # again, where file systems may be mounted that nobody else sees
        words = ["unshare", "--map-root-user", "--mount", sys.executable, *sys.argv, "--inside"]
        os.execvp(words[0], words)
    shutil.rmtree(options.scratch, ignore_errors=True)
    options.scratch.mkdir(parents=True)
    scratch = options.scratch.resolve()
    setting = Setting(options.store.resolve(), options.source.resolve(), scratch)
    print("| fault | exit code | what is said | what is left, checked |\n|---|---|---|---|")
    failed = 0
    for fault in FAULTS:
        if options.only and not any(word in fault.__name__ for word in options.only.split(",")):
            continue
        row = fault(setting)
        checks = {name or "exit code": found for name, found in row.checks.items() if name or not found}
        checks |= {"no single line": False} if len(row.said) > 1 else {}
        failed += not all(checks.values())
        cell = "; ".join(name if found else f"**FAILED: {name}**" for name, found in checks.items())
        said = "<br>".join(f"`{line}`" for line in row.said).replace(str(scratch), "FOLDER")
        print(f"| {row.fault} | {row.exit_code} | {said} | {cell} |", flush=True)
    raise SystemExit(failed > 0)


if __name__ == "__main__":
    main()
