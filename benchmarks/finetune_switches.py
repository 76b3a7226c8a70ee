"""What each switch of a finetuning recipe does to few-shot scores: one switch at a time beside the defaults.

    python benchmarks/finetune_switches.py --tasks STUDY --bundle BUNDLE --output FOLDER steps=80 train_on=north …

`--tasks` holds task folders (default: those of the generated study). Every variant is one `python -m fomo_ssl.finetune`
of the pretrained arm, with the given words and one switch, on the same cases, seeds and steps; `--parallel` of them run
side by side on one thread each. Writes `table.md`: the score of the defaults, and of each variant the paired difference
to them with its 95 % interval over test subjects. What is finished is not repeated.
"""

import argparse
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from fomo_ssl.downstream.metrics import METRICS
from fomo_ssl.downstream.scores import Predictions, differences, intervals
from fomo_ssl.report.results import settings
from fomo_ssl.report.runs import find_runs

SWITCHES = {
    "encoder_lr_scale=0.1": (),
    "schedule=warmup": (),
    "schedule=sawtooth": (),
    "layer_decay=0.7": (),
    "early_stopping=true": ("validate_every=10",),
    "clip=0": (),
    "ema=0": (),
    "precision=bf16-mixed": (),
    "fusion=separate": (),
    "mirror=[x]": (),
    "mirror=[x,y,z]": (),
}
"""A switch, and what it needs beside it."""

DEFAULTS = "defaults"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tasks", type=Path, required=True, help="folder of task folders")
    parser.add_argument("--names", default="brain_age,infarct,meningioma", help="of the tasks")
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--only", help="comma-separated switches in place of the list; an unlisted one will do")
    parser.add_argument("--parallel", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("words", nargs="*", help="of python -m fomo_ssl.finetune; TASK:KEY=VALUE is for one task")
    options = parser.parse_args()
    names = options.names.split(",")
    switches = [DEFAULTS, *(options.only.split(",") if options.only else SWITCHES)]
    jobs = [(task, switch) for switch in switches for task in names]
    with ThreadPoolExecutor(options.parallel) as pool:
        list(pool.map(lambda job: finetune(options, *job), jobs))
    table = to_table(options.output, names, switches)
    (options.output / "table.md").write_text(table)
    print(table)


def folder(output: Path, task: str, switch: str) -> Path:
    return output / f"{task}_{switch.replace('=', '_')}"


def finetune(options: argparse.Namespace, task: str, switch: str) -> None:
    words = [word for word in options.words if ":" not in word.partition("=")[0]]
    words += [word.partition(":")[2] for word in options.words if word.startswith(f"{task}:")]
    if switch != DEFAULTS:
        words += [switch, *SWITCHES.get(switch, ())]
    command = [
        sys.executable, "-m", "fomo_ssl.finetune", f"bundle={options.bundle}", f"task={options.tasks / task}",
        f"run={folder(options.output, task, switch)}", "scratch=false", "parallel=1", "resume=auto", *words,
    ]  # fmt: skip
    subprocess.run(command, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL)


def predictions(run: Path) -> list[Predictions]:
    """Of all shots and seeds."""
    return [one for setting in settings(find_runs([str(run)])) for arm in setting.arms for one in arm.seeds]


def to_table(output: Path, names: list[str], switches: list[str]) -> str:
    of = {(task, switch): predictions(folder(output, task, switch)) for task in names for switch in switches}
    leading = {task: METRICS[of[task, DEFAULTS][0].kind][0] for task in names}
    lines = ["| | " + " | ".join(f"{task}, {metric}" for task, metric in leading.items()) + " |"]
    lines.append("|---" * (1 + len(names)) + "|")
    cells = []
    for task, metric in leading.items():
        found = intervals(of[task, DEFAULTS])[metric]
        cells.append(f"{found.value:.3f} [{found.low:.3f}, {found.high:.3f}]")
    lines.append(f"| {DEFAULTS} | " + " | ".join(cells) + " |")
    for switch in switches[1:]:
        cells = []
        for task, metric in leading.items():
            apart = differences(of[task, switch], of[task, DEFAULTS], [metric])[metric]
            text = f"{apart.value:+.3f} [{apart.low:+.3f}, {apart.high:+.3f}]"
            cells.append(f"**{text}**" if apart.low > 0 or apart.high < 0 else text)
        lines.append(f"| `{switch}` | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
