"""What a fault ends in, as whoever runs the commands meets it: one line or a counted substitution, and nothing lost.

    python -m benchmarks.data_faults --store STORE_2MM --source FOMO_FLAT --scratch FOLDER [--only WORD,WORD]

Each row provokes a fault under a real command in a process of its own, on copies of the scans, and then looks: what the
command said, what it wrote down, whether the same command goes on to the bytes of an undisturbed run. Full disks and a
small /dev/shm are file systems of the script's own (`unshare`, no root needed). Exit code 1 where a check fails.
"""

import argparse
import csv
import json
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.data_faults_setting import (
    AHEAD,
    CROP,
    EVERY,
    SAMPLES,
    SCANS,
    Checks,
    Command,
    Setting,
    clean,
    contents,
    models,
    saved,
    small_disk,
    went_on,
)
from fomo_ssl.core.types import ViewSpec
from fomo_ssl.corpus.store import Store
from fomo_ssl.training.checkpoint import checkpoint_files
from fomo_ssl.training.source import CropSource, DataConfig


@dataclass(frozen=True)
class Row:
    """A line of the table; each check is what was found, and whether it was."""

    fault: str
    exit_code: int
    said: list[str]
    checks: Checks
    wanted: int = 2  # exit code
    lines: int = 1  # that ought to be said

    def all_checks(self) -> Checks:
        """With those that are named only where they fail."""
        found = {f"exit code {self.wanted}": self.exit_code == self.wanted}
        found |= {f"{self.lines} lines said": len(self.said) == self.lines}
        return self.checks | {name: right for name, right in found.items() if not right}


def loader_process_killed(setting: Setting) -> Row:
    run = setting.scratch / "loader"
    command = setting.pretrain(run).until(saved(run))
    command.kill_worker()
    code, said = command.end()
    return Row("pretraining: a loader process killed (SIGKILL)", code, said, went_on(setting, run))


def run_killed(setting: Setting) -> Row:
    run = setting.scratch / "run"
    command = setting.pretrain(run).until(saved(run))
    command.process.kill()
    code, said = command.end()
    checks = went_on(setting, run)
    return Row("pretraining: the run itself killed (SIGKILL)", code, said, checks, wanted=-9, lines=0)


def disk_gone(setting: Setting) -> Row:
    run, store = setting.scratch / "gone", setting.scratch / "gone_store"
    shutil.copytree(setting.store, store)
    command = setting.pretrain(run, store).until(saved(run))
    (store / "scans").rename(store / "elsewhere")
    code, said = command.end()
    return Row("pretraining: all scans gone (disk unmounted)", code, said, went_on(setting, run))


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
    return Row(f"pretraining: {fault}", code, said, found | clean(run), wanted=0)


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
    return Row("`data_report --verify`: one byte flipped", code, said, {"the file is named": named})


def small_shared_memory(setting: Setting) -> Row:
    run = setting.scratch / "shm"
    small = 'mount -t tmpfs -o size=64k tmpfs /dev/shm && exec "$@"'
    code, said = setting.pretrain(run, inside=["unshare", "--mount", "sh", "-c", small, "sh"]).end()
    same = contents(run / "bundle") == setting.bundle
    checks = {"nothing: the undisturbed bundle, bit for bit": same} | clean(run)
    return Row("pretraining: `/dev/shm` of 64 kB, batches of 0.5 MB", code, said, checks, wanted=0, lines=0)


def disk_full_at_a_checkpoint(setting: Setting) -> Row:
    setting.bundle  # noqa: B018 - made before its checkpoint is measured
    size = checkpoint_files(setting.scratch / "whole/checkpoints")[0].stat().st_size
    run = setting.scratch / "full_run"
    with small_disk(run, int(1.5 * size)) as grow:
        code, said = setting.pretrain(run).end()
        grow()
        checks = went_on(setting, run)
    return Row(f"pretraining: room for 1.5 checkpoints of {size / 1e6:.0f} MB", code, said, checks)


def disk_full_in_preprocessing(setting: Setting) -> Row:
    store = setting.scratch / "full_store"
    with small_disk(store, sum(map(len, setting.made.values())) // 2) as grow:
        code, said = setting.preprocess(store).end()
        grow()
        checks = remade(setting, store)
    return Row("preprocessing: room for half of the store", code, said, checks)


def preprocessing_process_killed(setting: Setting) -> Row:
    store = setting.scratch / "killed_store"
    command = setting.preprocess(store).until(lambda: len(list(store.glob("scans/*/*.b2nd"))) >= SCANS // 2)
    command.kill_worker()
    code, said = command.end()
    checks = remade(setting, store)
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
    checks = {f"{kept} of {units} units done before are kept": 0 < kept < units}
    checks |= {"the same command ends in the undisturbed models and predictions, bit for bit": same} | clean(run)
    return Row("finetuning: the process of a unit killed (SIGKILL)", code, said, checks)


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
        inside = [sys.executable, "-m", "benchmarks.data_faults", *sys.argv[1:], "--inside"]
        words = ["unshare", "--map-root-user", "--mount", *inside]
        os.execvp(words[0], words)
    if options.scratch.exists() and any(options.scratch.iterdir()):
        raise SystemExit(f"{options.scratch} is not empty: give a new folder")
    options.scratch.mkdir(parents=True, exist_ok=True)
    scratch = options.scratch.resolve()
    setting = Setting(options.store.resolve(), options.source.resolve(), scratch)
    print("| fault | exit code | what is said | what is left, checked |\n|---|---|---|---|")
    failed = 0
    for fault in FAULTS:
        if options.only and not any(word in fault.__name__ for word in options.only.split(",")):
            continue
        row = fault(setting)
        checks = row.all_checks()
        failed += not all(checks.values())
        cell = "; ".join(name if found else f"**FAILED: {name}**" for name, found in checks.items())
        said = "<br>".join(f"`{line}`" for line in row.said).replace(str(scratch), "FOLDER")
        print(f"| {row.fault} | {row.exit_code} | {said} | {cell} |", flush=True)
    raise SystemExit(failed > 0)


if __name__ == "__main__":
    main()
