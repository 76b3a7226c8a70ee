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
    "challenge",
    "convert",
    "demo",
    "doctor",
)


def usage() -> str:
    """The commands with the first line of their modules, which are read and not imported."""
    lines = []
    for name in COMMANDS:
        text = source_of(name).read_text()
        summary = (ast.get_docstring(ast.parse(text)) or "").partition("\n")[0]
        lines.append(f"  {name:<12}{summary}")
    listed = "\n".join(lines)
    return f"Usage: fomo-ssl COMMAND [arguments]\n\n{listed}\n\nfomo-ssl COMMAND --help says more."


def source_of(name: str) -> Path:
    """The file of a command: a module, or the `__main__` of a package."""
    module = Path(__file__).parent / f"{name}.py"
    return module if module.is_file() else Path(__file__).parent / name / "__main__.py"


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
    package = "" if source_of(name).stem == name else ".__main__"
    importlib.import_module(f"fomo_ssl.{name}{package}").main()


if __name__ == "__main__":
    main()
