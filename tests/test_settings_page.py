"""docs/reference/settings.md names every setting of the commands and its default."""

import importlib
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "reference" / "settings.md"
GROUPS = {"data": "default", "optim": "adamw", "trainer": "default", "logger": "wandb"}
KINDS = ("segmentation", "classification", "regression")


def rows(section: str) -> dict[str, list[str]]:
    """First cell without its marks, and the other cells, of the tables of a section."""
    part = re.split(r"^## ", PAGE.read_text(), flags=re.MULTILINE)
    text = next(piece for piece in part if piece.startswith(f"{section}\n"))
    cells = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| `")]
    return {row[0].strip("`"): row[1:] for row in cells}


def settings(name: str, prefix: str = "") -> dict[str, Any]:
    """Dotted names and defaults of a file in conf/."""
    found: dict[str, Any] = {}

    def add(values: dict[str, Any], prefix: str) -> None:
        for key, value in values.items():
            if prefix or key not in ("defaults", "hydra"):
                if isinstance(value, dict) and value:
                    add(value, f"{prefix}{key}.")
                else:
                    found[f"{prefix}{key}"] = value

    add(yaml.safe_load((ROOT / "conf" / f"{name}.yaml").read_text()), prefix)
    return found


def written(value: Any) -> str:
    if isinstance(value, list):
        return f"`[{','.join(map(str, value))}]`"
    plain = {None: "`null`", "???": "needed"}
    return plain[value] if value in ("???", None) else f"`{str(value).lower() if value in (True, False) else value}`"


@pytest.mark.parametrize("command", ["preprocess", "pretrain", "finetune", "evaluate"])
def test_every_key_of_a_command_has_a_line_with_its_default(command: str) -> None:
    wanted = settings(command)
    if command == "pretrain":
        for group, option in GROUPS.items():
            wanted |= settings(f"{group}/{option}", f"{group}.")
        del wanted["logger.name"]
    found = {key: cells for key, cells in rows(command).items() if len(cells) == 2}
    assert {key: cells[0] for key, cells in found.items()} == {
        key: "`{}`" if value == {} else written(value) for key, value in wanted.items()
    }


def test_every_key_of_a_recipe_has_a_line_with_its_defaults() -> None:
    found = {key: cells[:-1] for key, cells in rows("finetune").items() if len(cells) == 4}
    recipes = [
        {key: value for key, value in settings(f"task/{kind}").items() if not key.startswith("augment.")}
        for kind in KINDS
    ]
    assert found == {key: [written(recipe[key]) for recipe in recipes] for key in recipes[0]}


@pytest.mark.parametrize("command", ["data_report", "embed", "predict", "challenge", "convert"])
def test_every_flag_of_a_command_has_a_line(command: str) -> None:
    module = importlib.import_module(f"fomo_ssl.{'challenge.__main__' if command == 'challenge' else command}")
    text = PAGE.read_text().partition("## Commands with flags")[2]
    parser = module.parser()
    nested = [action.choices for action in parser._actions if isinstance(action.choices, dict)]
    parsers = {f"{command} {name}": sub for name, sub in nested[0].items()} if nested else {command: parser}
    for name, one in parsers.items():
        block = re.search(rf"^\| {name} \|.*\n(?:\| \|.*\n)*", text, re.MULTILINE)
        assert block is not None, name
        flags = {flag for action in one._actions for flag in action.option_strings if flag not in ("-h", "--help")}
        if command == "predict":  # its sequences share a line
            flags -= {f"--{sequence}" for sequence in module.SEQUENCES}
        assert {flag for flag in flags if f"`{flag}`" not in block[0]} == set(), name
