"""The entry point: every shipped configuration builds, the command line runs, mistakes are one line."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fomo_ssl import __main__ as command
from fomo_ssl import list_encoders
from fomo_ssl.bundle import load_config
from fomo_ssl.config import compose, conf_dir
from fomo_ssl.core.errors import ConfigError
from fomo_ssl.objectives import list_objectives
from fomo_ssl.pretrain import build_objective, build_run_config, default_run, main

SMALL = ("encoder=resenc_t", "+encoder.channels=[4,8]", "+encoder.blocks=[1,1]", "crop=16", "batch_size=2",
         "budget.samples=4", "data.workers=0", "data.held_out=1", "trainer=cpu", "log_every=1")  # fmt: skip


def options(group: str) -> list[str]:
    return sorted(file.stem for file in (conf_dir() / group).glob("*.yaml"))


def one_line(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as stop:
        main(list(arguments))
    assert stop.value.code == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    return message


def test_root_keys_are_few_and_known() -> None:
    # A new key needs an experiment that uses it.
    assert set(compose("pretrain", ["store=s"])) == {
        *("encoder", "objective", "augment", "data", "optim", "trainer", "logger"),
        *("store", "run", "resume", "init", "seed", "crop", "batch_size", "accumulate", "budget"),
        *(
            "precision",
            "compile",
            "grad_checkpointing",
            "checkpoint_every",
            "preview_every",
            "log_every",
            "profile",
            "health",
            "probe",
        ),
    }


def test_defaults_are_the_defaults_of_the_code() -> None:
    from fomo_ssl.training.callbacks.health import HealthConfig
    from fomo_ssl.training.optim import OptimConfig
    from fomo_ssl.training.source import DataConfig

    config = build_run_config(compose("pretrain", ["store=s"]))
    assert config.health == HealthConfig()
    assert config.optim == OptimConfig()
    assert config.data == DataConfig()
    assert config.samples == 1_000_000


@pytest.mark.parametrize(
    "override",
    [
        f"{group}={name}"
        for group in ("objective", "augment", "data", "optim", "trainer", "logger")
        for name in options(group)
    ],
)
def test_every_option_builds(override: str) -> None:
    config = compose("pretrain", ["store=s", "encoder=resenc_t", override])
    build_run_config(config)
    build_objective(config, 0)


@pytest.mark.parametrize(
    "override", [f"+{group}={name}" for group in ("experiment", "sweep") for name in options(group)]
)
def test_every_recipe_composes(override: str) -> None:
    build_run_config(compose("pretrain", ["store=s", override]))


def test_every_encoder_and_objective_has_a_configuration() -> None:
    named = {compose("pretrain", ["store=s", f"encoder={name}"])["encoder"]["name"] for name in options("encoder")}
    assert named == set(options("encoder"))
    assert named <= set(list_encoders())
    presets = [name for name in options("objective") if name not in list_objectives()]
    assert sorted([*list_objectives(), *presets]) == options("objective")
    assert {compose("pretrain", ["store=s", f"objective={name}"])["objective"]["name"] for name in presets} == {
        "hybrid"
    }


@pytest.mark.parametrize("wrong", ["health.enabled=off", "health.alarm=loud", "health.every=0", "health.crops=x"])
def test_wrong_health_settings_are_refused(wrong: str) -> None:
    with pytest.raises(ConfigError, match=wrong.partition("=")[0].replace(".", r"\.")):
        build_run_config(compose("pretrain", ["store=s", wrong]))


def test_a_collapse_is_one_line_and_a_page(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    alarm = ("health.min_spread=100", "health.warmup=0", "health.looks=2", "health.every=2", "health.crops=2")
    with pytest.raises(SystemExit) as stop:
        main([f"store={store}", f"run={tmp_path / 'run'}", *SMALL, *alarm])
    assert stop.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("fomo_ssl: collapsed after 2 samples")
    assert "collapsed after 2 samples" in (tmp_path / "run" / "report.html").read_text()


def test_the_command_line(
    store: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    memory_kept: list[bool],
) -> None:
    monkeypatch.chdir(tmp_path)
    main([f"store={store}", "run=out", *SMALL])
    assert "4 samples at" in capsys.readouterr().out
    config = load_config(Path("out/bundle"))
    assert config.encoder_args == {"channels": (4, 8), "blocks": (1, 1)}
    assert config.training["recipe"]["objective"]["name"] == "mae"
    assert "4 of 4 samples" in Path("out/report.html").read_text()
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    assert len(memory_kept) == 1


def test_a_sweep_ends_with_a_table(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    sizes = "encoder.channels=[4,8],[4,12]"
    main([f"store={store}", "run=sweep", "--multirun", "+sweep=size_x_length", *SMALL[:1], f"+{sizes}", *SMALL[2:]])
    assert "auroc of sequence" in capsys.readouterr().out
    assert len((tmp_path / "sweep" / "sweep.csv").read_text().splitlines()) == 3


def test_missing_store(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert "no finished store here" in one_line(capsys, f"store={tmp_path / 'nowhere'}")


def test_mistakes_in_values(capsys: pytest.CaptureFixture[str], store: Path, tmp_path: Path) -> None:
    for override, expected in (
        ("budget.samples=0", "budget.samples=0"),
        ("crop=[8,8]", "crop="),
        ("resume=maybe", "resume=maybe"),
        ("optim.schedule=cosin", "Did you mean cosine"),
        ("objective.mask_ratio=7", "objective refuses"),
        ("data.held_out=9", "held_out=9"),
        ("+trainer.acelerator=cpu", "trainer.acelerator"),
        ("+data.worker=8", "unknown key 'data.worker'. Did you mean data.workers"),
        ("+optim.momentum=0.9", "unknown key 'optim.momentum'"),
        ("objective=moco objective.queu=8", "Did you mean objective.queue"),
        ("+data.dataset_weights.nowhere=2", "the store holds no dataset 'nowhere'"),
        ("optim.betas=0.9", "optim.betas"),
        ("optim.betas=[0.9,1.5]", "optim.betas"),
        ("data.dataset_weights=3", "data.dataset_weights"),
        ("data.sequences=T1", "data.sequences"),
        ("data.held_out=few", "data.held_out"),
        ("data.held_out=true", "data.held_out=True is no number"),
        ("optim.warmup=1000", "optim.warmup=1000 is a share and no count"),
        ("optim.tail=2", "optim.tail=2 is a share"),
        ("health.warmup=10", "health.warmup=10 is a share"),
        ("trainer.num_nodes=two", "trainer.num_nodes"),
        ("trainer.num_nodes=2", "asks for 2 devices"),
    ):
        message = one_line(capsys, f"store={store}", f"run={tmp_path / 'r'}", "encoder=resenc_t", *override.split())
        assert expected in message
    assert not (tmp_path / "r").exists()


def test_default_run_names_what_it_is() -> None:
    assert default_run(compose("pretrain", ["store=s", "encoder=unet_t"])).endswith("_mae_unet_t")


def test_one_process_from_another_folder(store: Path, tmp_path: Path) -> None:
    """Exit code 2 and one line, with nothing else on either stream, in a real process."""
    command_line = [sys.executable, "-m", "fomo_ssl", "pretrain", f"store={store}", "encoder=resenc_x"]
    done = subprocess.run(command_line, cwd=tmp_path, capture_output=True, text=True, env=os.environ)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("fomo_ssl: unknown encoder 'resenc_x'. Did you mean resenc_")
    assert done.stderr.count("\n") == 1


def test_fomo_ssl_lists_its_commands(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["fomo-ssl", "--help"])
    command.main()
    text = capsys.readouterr().out
    assert all(f"  {name}" in text for name in command.COMMANDS)
    assert "Pretrain an encoder on a store and write a bundle." in text


def test_fomo_ssl_knows_near_names(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["fomo-ssl", "pretran"])
    with pytest.raises(SystemExit):
        command.main()
    assert capsys.readouterr().err == "fomo_ssl: unknown command 'pretran'. Did you mean pretrain?\n"


def test_settings_that_do_not_fit_name_their_group() -> None:
    config = compose("pretrain", ["store=s", "encoder=resenc_t", "+encoder.colour=blue"])
    with pytest.raises(ConfigError, match=r"encoder refuses its settings.*colour"):
        build_objective(config, 0)
