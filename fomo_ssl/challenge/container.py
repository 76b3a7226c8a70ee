"""What runs inside the container: one case in, one file out, with the command line of FOMO25."""

import sys
from collections.abc import Sequence
from pathlib import Path

from fomo_ssl.challenge.contract import TASKS, ChallengeTask, check_model, choose
from fomo_ssl.core.arguments import Arguments
from fomo_ssl.core.errors import ConfigError, TaskError, entry


def parser(task: ChallengeTask) -> Arguments:
    """The flags of the task; which of them are needed, the model says."""
    made = Arguments(
        prog="predict.py", description=f"FOMO25 task {task.number}, {task.name}: {task.writes}.", allow_abbrev=False
    )
    for name in task.flags:
        made.add_argument(f"--{name}", type=Path, metavar="NIFTI", help="a case has one" if name in task.either else "")
    made.add_argument("--output", type=Path, required=True, metavar="FILE", help=f"a name that ends in {task.suffix}")
    made.add_argument("--device", metavar="NAME", help="torch device; default: cuda where there is one, else cpu")
    return made


@entry
def main(task_name: str, bundles: Path, arguments: Sequence[str] | None = None) -> None:
    """Check the command line and the files, predict, write; what is wrong is one line and exit code 2.

    Args:
        task_name: of `TASKS`.
        bundles: folder of the bundles, whose outputs are averaged.
        arguments: the command line; None takes that of the process.
    """
    task = TASKS[task_name]
    options = parser(task).parse_args(arguments)
    given = {name: path for name in task.flags if (path := getattr(options, name)) is not None}
    if not options.output.name.endswith(task.suffix):
        raise ConfigError(f"{task.name} writes {task.suffix}", where=options.output)
    for name, path in given.items():
        if not path.is_file():
            raise TaskError(f"no file for --{name}", where=path)

    from fomo_ssl.core.device import choose_device
    from fomo_ssl.core.memory import keep_freed_memory
    from fomo_ssl.downstream import inference

    models = inference.load_models(sorted(bundles.iterdir()))
    spec, may_lack = models[0].spec, all(model.spec.missing == "zeros" for model in models)
    check_model(task, spec.kind, spec.sequences, spec.classes, bundles, may_lack)
    files = choose(spec.sequences, given, may_lack)
    device = choose_device(options.device)
    if device.type == "cpu":
        keep_freed_memory()
    models = [model.to(device) for model in models]

    from fomo_ssl.core.files import write_text
    from fomo_ssl.imaging.nifti import write

    if task.kind == "segmentation":
        views = inference.session_views(models, files)
        probabilities = inference.class_probabilities(models, views)
        mask = inference.likeliest_classes(probabilities, views)
        if not mask.any():
            # Every case of the task has a tumour.
            print("fomo_ssl: the mask was empty, which the validator refuses: one voxel is set", file=sys.stderr)
            mask[inference.least_background(probabilities, views)] = 1
        write(options.output, mask, views[0].grid.affine)
    else:
        write_text(options.output, f"{inference.predict_session(models, files)[0][-1]:.8g}\n")
    print(options.output)
