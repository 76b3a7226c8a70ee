"""The whole way on a generated study: scans, store, pretraining, three few-shot tasks, report. No download.

    python -m fomo_ssl.demo [--folder demo] [--seed 0]

Each step is one of the commands that you would run on your own scans, and is printed as such.
"""

import glob
import re
import shlex
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fomo_ssl.core.arguments import Arguments
from fomo_ssl.core.errors import ConfigError, entry

if TYPE_CHECKING:
    from fomo_ssl.synthetic.study import StudySpec, TaskName

TASKS: tuple["TaskName", ...] = ("infarct", "meningioma", "brain_age")
# Sized for five minutes on two slow CPU cores: 6 mm scans, a network of 0.2 M parameters, few steps, the sequences that
# show most of what each task is about.
SUBJECTS, CASES, SPACING_MM = 24, 36, 6.0
PRETRAIN = ("encoder=unet_t", "encoder.channels=[8,16,32,64]", "objective=mae", "crop=24", "batch_size=8",
            "budget.samples=2400", "optim.lr=1e-3", "data.workers=0", "data.held_out=4", "preview_every=1200",
            "checkpoint_every=1200")  # fmt: skip
FINETUNE: dict["TaskName", tuple[str, ...]] = {
    "infarct": ("steps=80", "crop=[24,32,24]", "sequences=[dwi_b1000,adc]"),
    "meningioma": ("steps=200", "crop=16", "sequences=[flair,t1c]"),
    "brain_age": ("steps=80", "crop=[24,32,24]"),
}
SHOTS, N_TEST = 12, 24


@entry
def main(arguments: Sequence[str] | None = None) -> None:
    """Run every step that is not finished yet; the same seed gives the same numbers on the same machine."""
    parser = Arguments(prog="python -m fomo_ssl.demo", description=__doc__.split("\n\n")[0])
    parser.add_argument("--folder", type=Path, default=Path("demo"), help="where everything goes (default: demo)")
    parser.add_argument("--seed", type=int, default=0, help="of the study, the pretraining and the splits")
    options = parser.parse_args(arguments)
    if options.seed < 0:  # said now, and not by the pretraining after everything was generated
        raise ConfigError(f"--seed is {options.seed}", way_out="give 0 or more")
    began = time.perf_counter()
    run(options.folder, options.seed)
    print(f"\nfinished in {time.perf_counter() - began:.0f} s")


def run(folder: Path, seed: int) -> None:
    """Generate, preprocess, pretrain, finetune, evaluate."""
    import torch

    from fomo_ssl import evaluate, finetune, preprocess, pretrain
    from fomo_ssl.synthetic.study import StudySpec

    # The same numbers whatever the number of cores, and maps this small gain nothing from a second thread.
    torch.set_num_threads(1)
    study, store, pretrained = folder / "study", folder / "store", folder / "pretrain"
    generate(study, StudySpec(SUBJECTS, CASES, SPACING_MM, seed=seed))
    source, spacing = setting("source", study / "corpus"), f"spacing={SPACING_MM:g}"
    command(preprocess.main, "preprocess", source, setting("store", store), spacing)
    common = (setting("store", store), setting("run", pretrained), f"seed={seed}", "resume=auto")
    command(pretrain.main, "pretrain", *common, *PRETRAIN)
    for task, values in FINETUNE.items():
        bundle, run = setting("bundle", pretrained / "bundle"), setting("run", folder / "finetune" / task)
        places = (bundle, f"task={study}/{task}", run)  # finetune quotes its task itself
        command(finetune.main, "finetune", *places, f"shots={SHOTS}", f"n_test={N_TEST}", "seeds=1",
                "resume=auto", *values)  # fmt: skip
    runs = Path(glob.escape(str(folder))) / "finetune" / "*"
    command(evaluate.main, "evaluate", setting("runs", runs), setting("output", folder / "report"))


def generate(study: Path, spec: "StudySpec") -> None:
    """The corpus and the three tasks, with one progress bar each."""
    from rich.progress import Progress

    from fomo_ssl.synthetic.study import generate_corpus, generate_task

    print(f"\n== generate {spec.subjects} subjects and {spec.cases} cases of each task in {study}", flush=True)
    with Progress() as progress:

        def bar(name: str) -> Callable[[int, int], None]:
            task = progress.add_task(name)
            return lambda done, total: progress.update(task, completed=done, total=total)

        generate_corpus(study / "corpus", spec, on_case=bar("corpus"))
        for name in TASKS:
            generate_task(study / name, name, spec.cases, spec, on_case=bar(name))


def setting(key: str, path: Path) -> str:
    """A path on a command line, in quotes where Hydra would read it as something else than text."""
    text = str(path)
    if re.fullmatch(r"[\w./*-]+", text, re.ASCII):
        return f"{key}={text}"
    quoted = text.replace("'", "\\'")
    return f"{key}='{quoted}'"


def command(main: Callable[[list[str]], None], name: str, *arguments: str) -> None:
    """Say what is run, and run it in this process."""
    print(f"\n== python -m fomo_ssl.{name} {shlex.join(arguments)}", flush=True)
    main(list(arguments))


if __name__ == "__main__":
    main()
