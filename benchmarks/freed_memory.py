"""What keeping freed memory saves a pretraining on a CPU.

    python benchmarks/freed_memory.py --store STORE    # --encoders vit_t_p8,resenc_t --crop 48 --samples 320 --turns 2

The command as a user runs it, `objective=mae`, one thread, bf16, and the same with the C library's own habit, which
`MALLOC_TRIM_THRESHOLD_` in the environment leaves alone; in turns. CPU seconds, and the largest resident memory, the
median over turns. Both have to end in the same bundle, byte for byte.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ITS_OWN_HABIT = {"MALLOC_TRIM_THRESHOLD_": "131072"}  # glibc's default


def run(store: Path, folder: Path, encoder: str, crop: int, samples: int, environment: dict[str, str]) -> list[float]:
    """User and system CPU seconds, and MiB."""
    words = ["pretrain", f"store={store}", f"run={folder}", f"encoder={encoder}", "objective=mae", f"crop={crop}",
             "batch_size=8", f"budget.samples={samples}", "data.workers=0", "precision=bf16-mixed"]  # fmt: skip
    threads = {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [sys.executable, "-m", "fomo_ssl", *words],
        env=os.environ | threads | environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"pretraining ended with code {process.returncode}")
    return [used.ru_utime, used.ru_stime, used.ru_maxrss / 1024]


def contents(bundle: Path) -> dict[str, bytes]:
    return {str(file.relative_to(bundle)): file.read_bytes() for file in bundle.rglob("*") if file.is_file()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--encoders", default="vit_t_p8,resenc_t")
    parser.add_argument("--crop", type=int, default=48)
    parser.add_argument("--samples", type=int, default=320)
    parser.add_argument("--turns", type=int, default=2)
    options = parser.parse_args()
    print("| encoder | freed memory | CPU s, user | system | together | times as fast | MiB |\n" + "|---" * 7 + "|")
    for encoder in options.encoders.split(","):
        measured: dict[str, list[list[float]]] = {"given back": [], "kept": []}
        with tempfile.TemporaryDirectory() as scratch:
            for turn in range(options.turns):
                for name, runs in measured.items():
                    folder = Path(scratch) / f"{name.split()[0]}_{turn}"
                    habit = ITS_OWN_HABIT if name == "given back" else {}
                    runs.append(run(options.store, folder, encoder, options.crop, options.samples, habit))
            bundles = [contents(folder / "bundle") for folder in Path(scratch).iterdir()]
            assert all(bundle == bundles[0] for bundle in bundles), "the bundles differ"
        total = {name: statistics.median(user + system for user, system, _ in runs) for name, runs in measured.items()}
        for name, runs in measured.items():
            user, system, mib = (statistics.median(column) for column in zip(*runs, strict=True))
            print(f"| `{encoder}` | {name} | {user:.1f} | {system:.1f} | {total[name]:.1f} "
                  f"| {total['given back'] / total[name]:.2f} | {mib:,.0f} |", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
