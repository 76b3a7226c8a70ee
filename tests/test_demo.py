"""The demo's command lines; the whole of it takes minutes and is run by `make demo`."""

import glob
from pathlib import Path

import pytest

from fomo_ssl.config import compose
from fomo_ssl.demo import main, setting


@pytest.mark.parametrize("name", ["demo", "my demo (1)", "a,b", "lr=0.1", "{x}", "it's", "#3", "Ärzte", "[0]"])
def test_a_folder_of_any_name_reaches_the_commands(name: str, tmp_path: Path) -> None:
    folder = tmp_path / name
    source = compose("preprocess", [setting("source", folder), setting("store", folder / "store")])["source"]
    assert source == str(folder)
    (folder / "finetune" / "infarct").mkdir(parents=True)
    runs = Path(glob.escape(str(folder))) / "finetune" / "*"
    pattern = compose("evaluate", [setting("runs", runs)])["runs"]
    assert glob.glob(pattern) == [str(folder / "finetune" / "infarct")]  # noqa: PTH207, as `find_runs` does


def test_usual_paths_are_not_quoted() -> None:
    assert setting("store", Path("demo/store")) == "store=demo/store"


@pytest.mark.parametrize("arguments", [["--seed", "-1"], ["--seed", "one"], ["--fodler", "x"]])
def test_wrong_flags_are_one_line_and_generate_nothing(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["--folder", str(tmp_path / "demo"), *arguments])
    error = capsys.readouterr().err
    assert error.startswith("fomo_ssl: ")
    assert error.count("\n") == 1
    assert not (tmp_path / "demo").exists()
