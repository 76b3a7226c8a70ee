"""A FOMO25 container of a finetuned model: its build context, and a check of it.

python -m fomo_ssl.challenge build --task infarct --bundle BUNDLE --output context
python -m fomo_ssl.challenge check context --cases DATA
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from fomo_ssl.core.arguments import Arguments
from fomo_ssl.core.errors import FomoSSLError, entry


def parser() -> Arguments:
    """The command line."""
    made = Arguments(prog="python -m fomo_ssl.challenge", description="A FOMO25 container of a finetuned model.")
    commands = made.add_subparsers(dest="command", required=True, metavar="build | check")
    building = commands.add_parser("build", help="write what Apptainer or Docker make the container from")
    building.add_argument("--task", required=True, choices=("infarct", "meningioma", "age"))
    building.add_argument(
        "--bundle",
        required=True,
        nargs="+",
        type=Path,
        metavar="FOLDER",
        help="model finetuned on that task; several, such as its seeds, are averaged",
    )
    building.add_argument("--output", required=True, type=Path, metavar="FOLDER", help="build context to write")
    building.add_argument(
        "--base", metavar="IMAGE", help="image to start from; default: python:X.Y-slim of this Python"
    )
    checking = commands.add_parser("check", help="run its predict.py on cases as the organisers' validator does")
    checking.add_argument("context", type=Path, metavar="FOLDER", help="build context")
    checking.add_argument("--cases", required=True, type=Path, help="DATA with preprocessed/sub_X/ses_1/*.nii.gz")
    checking.add_argument("--outputs", type=Path, metavar="FOLDER", help="keep the predictions there")
    checking.add_argument("--limit", type=float, default=120.0, metavar="SECONDS", help="a case; default: 120")
    return made


@entry
def main(arguments: Sequence[str] | None = None) -> None:
    """Build, or check and print a table; exit code 2 where something does not conform."""
    options = parser().parse_args(arguments)
    (_build if options.command == "build" else _check)(options)


def _build(options: argparse.Namespace) -> None:
    from fomo_ssl.challenge.context import build

    facts = build(options.task, options.bundle, options.output, options.base)
    print(f"{facts['task']}, bundle {' '.join(facts['bundle_digests'])}, from {facts['base']}: {options.output}")
    print(f"next: python -m fomo_ssl.challenge check {options.output} --cases DATA")


def _check(options: argparse.Namespace) -> None:
    from fomo_ssl.challenge.conformance import check, failed

    lines = []
    for line in check(options.context, options.cases, limit=options.limit, outputs=options.outputs):
        lines.append(line)
        took = "" if line.seconds is None else f"{line.seconds:.1f} s"
        verdict = "FAIL" if line.wrong else "ok"
        print(f"{verdict:<5} {line.name:<14} {took:>8}  {'; '.join((line.found, *line.wrong))}", flush=True)
    if names := failed(lines):
        raise FomoSSLError(f"does not conform: {', '.join(names)}", where=options.context)
    print("Conforms.")


if __name__ == "__main__":
    main()
