import csv
import json
import shutil

import pytest

from fomo_ssl.config import compose
from fomo_ssl.core.errors import ConfigError
from fomo_ssl.downstream.recipe import Recipe
from fomo_ssl.finetune import build_recipe, main, overrides
from fomo_ssl.report.results import rows, settings
from fomo_ssl.report.runs import find_runs


@pytest.mark.parametrize("kind", ["segmentation", "classification", "regression"])
def test_task_path_picks_its_recipe(make_task, kind):
    root = make_task(kind, 2)
    config = compose("finetune", overrides([f"task={root}", "bundle=none", "shots=1,5,20", "steps=7"]))
    assert config["task_path"] == str(root)
    assert config["shots"] == [1, 5, 20]
    recipe = build_recipe(config)
    assert isinstance(recipe, Recipe)
    assert recipe.steps == 7
    assert recipe.pool == ("max" if kind == "classification" else "mean")
    assert recipe.switches.get("flip", False) is False


@pytest.mark.parametrize(
    ("word", "shots"), [("shots=5", 5), ("shots=[1,2]", [1, 2]), ("shots='1,2'", [1, 2]), ("shots=1,2", [1, 2])]
)
def test_shots_as_people_write_them(make_task, word, shots):
    config = compose("finetune", overrides([f"task={make_task('regression', 2)}", "bundle=none", word]))
    assert config["shots"] in (shots, [shots])


def test_every_value_of_the_recipe_is_in_every_yaml():
    from dataclasses import fields

    for kind in ("segmentation", "classification", "regression"):
        config = compose("finetune", [f"task={kind}", "task_path=x", "bundle=none"])
        assert {field.name for field in fields(Recipe)} - set(config) == {"switches"}


@pytest.mark.parametrize(
    "word",
    [
        *("steps=0", "validate_every=0", "patience=0", "lr=fast", "ema=-1", "early_stopping=maybe", "lora_rank=1.5"),
        *("warmup=50", "freeze=2", "hold_out=3"),
    ],
)
def test_a_value_of_the_wrong_kind_is_named(word):
    config = compose("finetune", ["task=regression", "task_path=x", "bundle=none", word])
    with pytest.raises(ConfigError, match=f"^{word.split('=')[0]}="):
        build_recipe(config)


def test_no_task_is_an_error():
    with pytest.raises(ConfigError, match="task=PATH"):
        overrides(["bundle=none"])


def test_command_line_to_summary(make_task, tmp_path, capsys):
    words = [f"task={make_task('regression', 4)}", f"run={tmp_path / 'run'}", "bundle=none", "encoder=unet_t"]
    words += ["encoder.channels=[4,8]", "shots=1,2", "seeds=1", "n_test=2", "steps=2", "crop=16", "parallel=1"]
    main(words)
    assert len(json.loads((tmp_path / "run/summary.json").read_text())) == 4
    assert "kind regression inferred" in capsys.readouterr().err


def test_several_bundles_share_a_twin_and_end_in_one_report(make_task, bundle, tmp_path, capsys):
    other = tmp_path / "runs" / "other" / "bundle"
    shutil.copytree(bundle, other)
    words = [f"task={make_task('regression', 5)}", f"run={tmp_path / 'run'}", f"bundle={bundle},{other}", "shots=1,2"]
    words += ["seeds=1", "n_test=2", "steps=2", "crop=16", "parallel=1"]
    main(words)
    units = sorted(
        str(file.parent.relative_to(tmp_path / "run")) for file in tmp_path.glob("run/*/units/*/result.json")
    )
    first = bundle.parent.name if bundle.name == "bundle" else bundle.name
    assert sum("scratch" in unit for unit in units) == 2
    assert {unit.split("/")[0] for unit in units} == {first, "other"}
    assert len(units) == 6
    with (tmp_path / "run" / "results.csv").open() as table:
        lines = list(csv.DictReader(table))
    assert any("other" in str(line.values()) for line in lines)
    assert (tmp_path / "run" / "report.html").is_file()
    main([*words, "resume=auto"])  # nothing is left to do


def test_two_runs_trained_on_two_hospitals_are_control_and_controlled(make_task, bundle, tmp_path, capsys, memory_kept):
    task = make_task("regression", 8)
    people = "".join(f"sub_{number}\t{'north' if number % 2 else 'south'}\n" for number in range(8))
    (task / "participants.tsv").write_text("participant_id\tdataset\n" + people)
    words = [f"task={task}", f"bundle={bundle}", "test_on=south", "n_test=2", "shots=2", "seeds=1", "steps=1"]
    for site in ("north", "south"):
        main([*words, f"run={tmp_path / 'runs' / site}", f"train_on={site}", "crop=16", "batch_size=1", "parallel=1"])
        assert json.loads((tmp_path / "runs" / site / "run.json").read_text())["trained_on"] == [site]
    added = [row for row in rows(settings(find_runs([f"{tmp_path}/runs/*"]))) if row.in_domain]
    pairs = {(row.arm.method, row.against.method) for row in added}
    assert pairs == {("pretrained, trained on north", "scratch, trained on south")}
    assert len(memory_kept) == 2


def test_a_bundle_named_twice_is_one_line(make_task, bundle, tmp_path, capsys):
    words = [f"task={make_task('regression', 4)}", f"run={tmp_path / 'run'}", f"bundle={bundle},{bundle}", "shots=1"]
    with pytest.raises(SystemExit):
        main([*words, "seeds=1", "n_test=2", "steps=2", "crop=16"])
    assert "named twice" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["encoder=resnet"], "unknown encoder"),
        (["stpes=3"], "Did you mean steps"),
        (["mode=all", "encoder=unet_t"], "mode=all"),
        ([], "encoder=NAME"),
        (["shots=9", "encoder=unet_t"], "do not fit"),
        (["test_on=west", "encoder=unet_t"], "no dataset west"),
        (["scratch=no", "shots=1", "encoder=unet_t"], "scratch=no is neither true nor false"),
        (["sequences=flair", "encoder=unet_t"], "has no flair;"),
        (["mode=cv", "test_on=west", "encoder=unet_t"], "mode=cv tests every dataset"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(make_task, capsys, words, message):
    with pytest.raises(SystemExit) as stop:
        main([f"task={make_task('regression', 4)}", "bundle=none", *words])
    assert stop.value.code == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if "inferred" not in line]
    assert len(lines) == 1
    assert message in lines[0]
