"""Weights of other projects into a bundle, and a bundle into theirs."""

import argparse
import json
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from fomo_ssl.core.arguments import Arguments
from fomo_ssl.core.errors import ConfigError, entry


def parser() -> Arguments:
    """The command line; which formats there are is known only once torch is loaded, and said by the error."""
    made = Arguments(prog="python -m fomo_ssl.convert", description="Weights of other projects, in and out.")
    commands = made.add_subparsers(dest="command", required=True, metavar="import | export")
    reading = commands.add_parser("import", help="a checkpoint of another project into a bundle")
    reading.add_argument("file", type=Path, help="the checkpoint")
    reading.add_argument("--output", required=True, type=Path, metavar="BUNDLE", help="folder to write")
    reading.add_argument("--format", metavar="NAME", help="default: told by the file's keys")
    reading.add_argument("--window", type=int, metavar="VOXELS", help="another attention window, for swin_*")
    writing = commands.add_parser("export", help="a bundle's encoder into files of another project")
    writing.add_argument("bundle", type=Path, help="folder of a pretrained encoder")
    writing.add_argument("--output", required=True, type=Path, metavar="FOLDER", help="folder to write")
    writing.add_argument("--format", required=True, metavar="NAME", help="such as nnssl, for nnU-Net")
    return made


@entry
def main(arguments: Sequence[str] | None = None) -> None:
    """Convert and report; nothing is written where a tensor has no place."""
    options = parser().parse_args(arguments)
    (_import if options.command == "import" else _export)(options)


def _import(options: argparse.Namespace) -> None:
    from fomo_ssl.bundle import BundleConfig, InputContract, save_bundle
    from fomo_ssl.encoders.foreign import import_weights
    from fomo_ssl.encoders.swin import with_window

    output = _free_for(options.output, "schema")
    imported = import_weights(options.file, options.format)
    print(imported.report.table())
    encoder = imported.encoder
    if options.window is not None:
        encoder = with_window(encoder, options.window)
        print(f"position tables interpolated to windows of {options.window} voxels")
    shared = {field.name for field in fields(InputContract)} & {field.name for field in fields(imported)}
    contract = InputContract(**{name: getattr(imported, name) for name in shared})
    training = {"imported_from": imported.report.format, **imported.source}
    config = BundleConfig(encoder.name, dict(encoder.arguments), encoder.in_channels, contract, training)
    save_bundle(output, encoder, config)
    print(f"{encoder.name}, {imported.report.format}: {options.output}")


def _export(options: argparse.Namespace) -> None:
    from fomo_ssl.bundle import InputContract, load_config, load_weights
    from fomo_ssl.encoders.foreign import Facts, export_weights

    output = _free_for(options.output, "library")
    config = load_config(options.bundle)
    contract = config.input
    shared = {field.name for field in fields(InputContract)}
    facts = Facts(**{name: getattr(contract, name) for name in shared}, training=config.training)
    export_weights(load_weights(options.bundle, config.in_channels), output, facts, options.format)
    print(f"{config.encoder}, {options.format}: {options.output}")


def _free_for(output: Path, key: str) -> Path:
    """The folder to write, whose content will be replaced: new, empty, or of the kind that has `key` in config.json."""
    output = output.resolve()
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return output
    what = {"schema": "bundle", "library": "export of fomo_ssl"}[key]
    try:
        found = json.loads((output / "config.json").read_text())[key]
    except (OSError, ValueError, KeyError, TypeError):
        found = None
    if not (isinstance(found, int) if key == "schema" else found == "fomo_ssl"):
        raise ConfigError(f"is there and no {what}", where=output, way_out="Choose a new folder")
    return output


if __name__ == "__main__":
    main()
