"""One subject's raw NIfTI files in, a mask on their grid or a number as text out."""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from fomo_ssl.core.arguments import Arguments
from fomo_ssl.core.errors import ConfigError, TaskError, entry
from fomo_ssl.core.files import write_text
from fomo_ssl.downstream.tasks import alternatives

if TYPE_CHECKING:
    from fomo_ssl.downstream.models import TaskModel, TaskSpec

SEQUENCES = ("t1", "t1c", "t2", "t2s", "swi", "flair", "pd", "dwi_b0", "dwi_b1000", "adc", "mra")
"""Flags that are always understood; a model that was trained on other names adds its own."""

_NUMBER = (".txt",)
_MASK = (".nii.gz", ".nii")


def parser(channels: Sequence[str] = ()) -> Arguments:
    """The command line for a model with these channels; without any, of all models."""
    made = Arguments(
        prog="python -m fomo_ssl.predict",
        description="Predict one subject with a finetuned model: a mask on the grid of the input, or a number as text.",
    )
    made.add_argument(
        "--bundle",
        type=Path,
        required=True,
        nargs="+",
        metavar="FOLDER",
        help="finetuned model; several of one task, such as its seeds, are averaged",
    )
    made.add_argument(
        "--output", type=Path, required=True, metavar="FILE", help=".nii.gz for a mask, .txt for a number"
    )
    made.add_argument("--device", metavar="NAME", help="torch device; default: cuda where there is one, else cpu")
    made.add_argument(
        "--mirror",
        nargs="*",
        choices=("x", "y", "z"),
        help="average over mirror images along these axes of the head, twice the time for each; default: as finetuned",
    )
    own = [name for channel in channels for name in alternatives(channel, channels)]
    needed = made.add_argument_group(
        "scans of this model" if channels else "scans",
        f"Give one file for each of: {', '.join(_spoken(channel, channels) for channel in channels)}."
        if channels
        else "Which ones a model takes: --help together with --bundle. --swi and --t2s stand in for each other.",
    )
    for name in own or SEQUENCES:
        needed.add_argument(f"--{name}", dest=name, type=Path, metavar="NIFTI")
    for name in SEQUENCES if channels else ():
        if name not in own:  # understood, so that the error says what the model takes
            made.add_argument(f"--{name}", type=Path, help=argparse.SUPPRESS)
    return made


def choose_files(channels: Sequence[str], given: Mapping[str, Path], may_lack: bool = False) -> dict[str, Path]:
    """The file of each channel.

    Args:
        channels: of the model.
        given: path by sequence name.
        may_lack: whether the model was trained to do without some of them.

    Raises:
        TaskError: a channel has two files, or none though it needs one; none has any; or a file fits no channel.
    """
    chosen: dict[str, Path] = {}
    used: set[str] = set()
    for channel in channels:
        found = [name for name in alternatives(channel, channels) if name in given]
        if not found and may_lack and given:
            continue
        if len(found) != 1:
            what = f"no {_spoken(channel, channels)} given" if not found else f"both --{' and --'.join(found)} given"
            raise TaskError(what, way_out=f"give one file for each of {_listed(channels)}")
        chosen[channel] = given[found[0]]
        used.add(found[0])
    surplus = sorted(given.keys() - used)
    if surplus:
        raise TaskError(f"the model does not take --{surplus[0]}", way_out=f"it takes {_listed(channels)}")
    return chosen


def check_output(path: Path, kind: str) -> None:
    """The file's extension fits what is predicted.

    Raises:
        ConfigError: it does not.
    """
    wanted = _MASK if kind == "segmentation" else _NUMBER
    if not path.name.lower().endswith(wanted):
        what = f"a {kind} model writes {' or '.join(wanted)}, not {path.suffix or 'a name without extension'}"
        raise ConfigError(what, where=path, way_out=f"use --output {path.name.split('.')[0] or 'out'}{wanted[0]}")


def predict(models: "Sequence[TaskModel]", files: Mapping[str, Path], output: Path) -> None:
    """Write the mask (uint8, on the grid of the first channel's file), the probability of class 1, or the value.

    Several models of one task are averaged: their probabilities or values. With three and more classes the most likely
    class is written instead of a probability.

    Raises:
        RejectedScan: a file cannot be used.
    """
    from fomo_ssl.downstream.inference import predict_session
    from fomo_ssl.imaging.nifti import write

    spec: TaskSpec = models[0].spec
    numbers, grid = predict_session(models, files)
    if spec.kind == "segmentation":
        write(output, numbers, grid.affine)
        return
    several = spec.kind == "classification" and len(numbers) > 2
    value = numbers.argmax() if several else numbers[-1]
    write_text(output, f"{value:.8g}\n")


@entry
def main(arguments: Sequence[str] | None = None) -> None:
    """Ask the bundle for its sequences, read the command line with them, check, predict."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--bundle", type=Path, nargs="+")
    bundles = first.parse_known_args(arguments)[0].bundle
    if bundles is None:
        parser().parse_args(arguments)
        raise ConfigError("no --bundle", way_out="give the folder of a finetuned model")

    from fomo_ssl.bundle import load_config

    channels = tuple((load_config(bundles[0]).task or {}).get("sequences", ()))
    options = parser(channels).parse_args(arguments)

    from fomo_ssl.core.device import choose_device
    from fomo_ssl.core.memory import keep_freed_memory
    from fomo_ssl.downstream.inference import load_models

    models = load_models(bundles)
    check_output(options.output, models[0].spec.kind)
    names = {name for channel in channels for name in alternatives(channel, channels)} | set(SEQUENCES)
    given = {name: path for name, path in vars(options).items() if name in names and path is not None}
    device = choose_device(options.device)
    if device.type == "cpu":
        keep_freed_memory()
    if options.mirror is not None:
        for model in models:
            model.spec = replace(model.spec, mirror=tuple(dict.fromkeys(options.mirror)))
    files = choose_files(channels, given, all(model.spec.missing == "zeros" for model in models))
    predict([model.to(device) for model in models], files, options.output)
    print(options.output)


def _spoken(channel: str, channels: Sequence[str]) -> str:
    return " or ".join(f"--{name}" for name in alternatives(channel, channels))


def _listed(channels: Sequence[str]) -> str:
    return ", ".join(_spoken(channel, channels) for channel in channels)


if __name__ == "__main__":
    main()
