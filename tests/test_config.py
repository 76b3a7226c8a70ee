import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fomo_ssl import config as config_module
from fomo_ssl.config import compose, conf_dir, hydra_main
from fomo_ssl.core.errors import ConfigError

ROOT = """# What tool does.
defaults:
  - size: small
  - _self_

store: ???   # where things are
run: null
depth: 2
budget:
  samples: 1e6
weights: {}
hydra:
  sweep:
    subdir: ${hydra.job.num}_${size.name}
"""


@pytest.fixture
def conf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small configuration tree in place of the shipped one; the working directory is an empty folder."""
    folder = tmp_path / "conf"
    (folder / "size").mkdir(parents=True)
    (folder / "tool.yaml").write_text(ROOT)
    (folder / "size" / "small.yaml").write_text("name: small\nwidth: 8\n")
    (folder / "size" / "large.yaml").write_text("name: large\nwidth: 16\n")
    monkeypatch.setattr(config_module, "conf_dir", lambda: folder)
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    return folder


def run(*arguments: str, fail: Exception | None = None, after_sweep: Any = None) -> list[dict[str, Any]]:
    seen: list[dict[str, Any]] = []

    def main(config: dict[str, Any]) -> None:
        seen.append(config)
        if fail is not None and len(seen) == 1:
            raise fail

    hydra_main("tool", after_sweep)(main)(list(arguments))
    return seen


def one_line(capsys: pytest.CaptureFixture[str], *arguments: str, **kwargs: Any) -> str:
    with pytest.raises(SystemExit) as stop:
        run(*arguments, **kwargs)
    assert stop.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1 or "-m" in arguments
    return captured.err


def test_main_gets_plain_values_and_no_folder_appears(conf: Path) -> None:
    assert run("store=a", "size=large", "depth=3") == [
        {
            "store": "a",
            "run": None,
            "depth": 3,
            "budget": {"samples": 1e6},
            "weights": {},
            "size": {"name": "large", "width": 16},
        }
    ]
    assert type(run("store=a")[0]["size"]) is dict
    assert list(Path.cwd().iterdir()) == []


def test_misspelt_key(conf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "unknown key 'dept'. Did you mean depth" in one_line(capsys, "store=a", "dept=3")
    assert "budget.samples" in one_line(capsys, "store=a", "budget.sample=3")


@pytest.mark.parametrize(
    ("added", "message"),
    [
        ("+dept=3", "unknown key 'dept'. Did you mean depth"),
        ("+budget.sample=3", "unknown key 'budget.sample'. Did you mean budget.samples"),
        ("+size.widht=3", "unknown key 'size.widht'. Did you mean size.width"),
        ("+recipe=mine", "unknown key 'budget.sample'. Did you mean budget.samples"),
    ],
)
def test_a_key_that_nothing_reads(conf: Path, capsys: pytest.CaptureFixture[str], added: str, message: str) -> None:
    """Hydra takes any key with a plus, and any from a file of one's own."""
    (conf / "recipe").mkdir()
    (conf / "recipe" / "mine.yaml").write_text("# @package _global_\nbudget:\n  sample: 3\n")
    assert message in one_line(capsys, "store=a", added)
    with pytest.raises(ConfigError, match=message):
        compose("tool", ["store=a", added])


def test_names_of_the_users_own_are_free(conf: Path) -> None:
    assert run("store=a", "+weights.OASIS=2")[0]["weights"] == {"OASIS": 2}


def test_near_names_are_those_of_the_chosen_option(conf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (conf / "size" / "deep.yaml").write_text("name: deep\nlayers: 8\n")
    assert "Did you mean size.layers" in one_line(capsys, "store=a", "size=deep", "size.layer=3")


def test_deleting_a_null(conf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "run is null already. Leave ~run out" in one_line(capsys, "store=a", "~run")
    assert "unknown key 'dept'. Did you mean depth" in one_line(capsys, "store=a", "~dept")


def test_misspelt_group(conf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "unknown key 'sice'. Did you mean size?" in one_line(capsys, "store=a", "sice=large")


def test_a_section_takes_no_value(conf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "budget is a section and takes no value. Give one of budget.samples" in one_line(
        capsys, "store=a", "budget=3"
    )


def test_unknown_option(conf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "unknown size 'larg'. Did you mean large?" in one_line(capsys, "store=a", "size=larg")
    for value in ("3", "null"):
        assert f"size={value} is no name of an option" in one_line(capsys, "store=a", f"size={value}")
    assert "Known: large, small" in one_line(capsys, "store=a", "size=zzz")


def test_missing_value(conf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "no value for store. Give store=VALUE" in one_line(capsys)


def test_bad_syntax(conf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "no viable alternative at input '[a'" in one_line(capsys, "store=[a")


def test_broken_interpolation(conf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "nothing" in one_line(capsys, "store=${nothing}")


def test_errors_of_the_main_function(conf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert one_line(capsys, "store=a", fail=ConfigError("bad", way_out="Do better")) == "fomo_ssl: bad. Do better\n"
    with pytest.raises(ZeroDivisionError):
        run("store=a", fail=ZeroDivisionError())


def test_help_names_groups_keys_and_comments(conf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("--help")
    text = capsys.readouterr().out
    assert "size=large | small" in text
    assert "store: ???   # where things are" in text
    assert "size=small, each value as size.KEY=VALUE:\n\nname: small\nwidth: 8" in text
    assert "[--multirun]" in text


def test_a_command_without_runs_has_no_sweep(conf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (conf / "tool.yaml").write_text("depth: 3\n")
    run("--help")
    text = capsys.readouterr().out
    assert "--multirun" not in text
    assert "Groups" not in text
    assert one_line(capsys, "depth=1,2", "--multirun") == (
        "fomo_ssl: tool knows no --multirun. Run it once for each value\n"
    )


def test_sweep(conf: Path) -> None:
    tables: list[Path] = []
    seen = run("store=a", "run=my [sweep]", "--multirun", "size=small,large", after_sweep=tables.append)
    runs = [Path(config["run"]) for config in seen]
    assert [(config["size"]["name"], path.name) for config, path in zip(seen, runs, strict=True)] == [
        ("small", "0_small"),
        ("large", "1_large"),
    ]
    assert {path.parent.resolve() for path in runs} == {Path("my [sweep]").resolve()}
    assert [table.resolve() for table in tables] == [Path("my [sweep]").resolve()]
    assert {p.name for p in Path.cwd().iterdir()} == {"my [sweep]"}


def test_a_failing_run_does_not_stop_a_sweep(conf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tables: list[Path] = []
    error = ConfigError("bad")
    message = one_line(capsys, "store=a", "depth=1,2,3", "-m", fail=error, after_sweep=tables.append)
    assert "bad" in message
    assert len(tables) == 1


def test_compose_equals_the_command_line(conf: Path) -> None:
    assert compose("tool", ["store=a", "size=large"]) == run("store=a", "size=large")[0]
    with pytest.raises(ConfigError, match="Did you mean depth"):
        compose("tool", ["store=a", "dept=3"])


def test_conf_dir_is_the_shipped_tree() -> None:
    assert (conf_dir() / "pretrain.yaml").is_file()


def test_importing_config_is_light() -> None:
    code = "import sys, fomo_ssl.config; print(*sorted({'hydra', 'omegaconf', 'torch', 'numpy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == ""
