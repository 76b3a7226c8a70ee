"""`fomo-ssl COMMAND ...` is `python -m fomo_ssl.COMMAND ...`."""

import ast
import difflib
import importlib
import sys
from pathlib import Path

from fomo_ssl.core.errors import ConfigError, entry

COMMANDS = (
    "preprocess",
    "data_report",
    "pretrain",
    "run_report",
    "finetune",
    "evaluate",
    "predict",
    "embed",
    "convert",
    "demo",
    "doctor",
)


def usage() -> str:
    """The commands with the first line of their modules, which are read and not imported."""
    lines = []
    for name in COMMANDS:
        text = (Path(__file__).parent / f"{name}.py").read_text()
        summary = (ast.get_docstring(ast.parse(text)) or "").partition("\n")[0]
        lines.append(f"  {name:<12}{summary}")
    listed = "\n".join(lines)
    return f"Usage: fomo-ssl COMMAND [arguments]\n\n{listed}\n\nfomo-ssl COMMAND --help says more."


@entry
def main() -> None:
    """Hand the rest of the command line to a command."""
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
        print(usage())
        return
    name = sys.argv[1]
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"Did you mean {near[0]}?" if near else f"One of {', '.join(COMMANDS)}"
        raise ConfigError(f"unknown command {name!r}", way_out=hint)
    sys.argv = [f"fomo-ssl {name}", *sys.argv[2:]]
    importlib.import_module(f"fomo_ssl.{name}").main()


if __name__ == "__main__":
    main()
