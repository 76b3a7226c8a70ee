"""The build context, and the check of it, in processes of their own."""

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from packaging.requirements import Requirement

from fomo_ssl.challenge.__main__ import main
from fomo_ssl.challenge.conformance import Check, check, find_scans
from fomo_ssl.challenge.contract import TASKS
from fomo_ssl.challenge.outputs import judge
from fomo_ssl.challenge.recipes import REQUIREMENTS
from fomo_ssl.imaging.nifti import read, write


@pytest.fixture(scope="module")
def contexts(bundles: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("contexts")
    for task in TASKS:
        main(["build", "--task", task, "--bundle", str(bundles / task / "00"), "--output", str(root / task)])
    return root


def with_script(context: Path, tmp_path: Path, script: str) -> Path:
    """A context whose predict.py is another; what it is told is in `given` and `output`."""
    folder = tmp_path / "context"
    folder.mkdir()
    for name in ("challenge.json", "Apptainer.def", "Dockerfile"):
        shutil.copy(context / name, folder / name)
    head = """
import sys
given = dict(zip(sys.argv[1::2], sys.argv[2::2]))
output = given.pop("--output")
if not given or any(open(path, "rb").read(2) != bytes([31, 139]) for path in given.values() if path):
    sys.exit("one line")
"""
    (folder / "predict.py").write_text(head + script)
    return folder


def lines_of(context: Path, cases: Path, limit: float = 120.0) -> dict[str, Check]:
    return {line.name: line for line in check(context, cases, limit=limit)}


def test_a_built_context_conforms(
    contexts: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The real way once, with the heaviest output; the mistakes included."""
    cases = tmp_path / "cases"
    shutil.copytree(data / "meningioma" / "preprocessed" / "sub_1", cases / "sub_1")
    kept = tmp_path / "kept"
    main(["check", str(contexts / "meningioma"), "--cases", str(cases), "--outputs", str(kept)])
    out = capsys.readouterr().out
    assert "FAIL" not in out
    assert "Conforms." in out
    assert re.search(r"slowest case +[\d.]+ s of 120 s, on the CPU", out)
    assert [path.name for path in kept.iterdir()] == ["sub_1.nii.gz"]


def test_a_context_holds_code_weights_and_pinned_versions(contexts: Path, bundles: Path) -> None:
    context = contexts / "age"
    assert (context / "bundles/00/head.safetensors").read_bytes() == (bundles / "age/00/head.safetensors").read_bytes()
    assert (context / "fomo_ssl/challenge/container.py").is_file()
    assert not list(context.rglob("__pycache__"))
    assert os.access(context / "predict.py", os.X_OK)
    pinned = (context / "requirements.txt").read_text().splitlines()
    assert f"torch=={importlib.metadata.version('torch').partition('+')[0]}" in pinned
    assert set(pinned) <= set((context / "constraints.txt").read_text().splitlines())
    for recipe in ("Apptainer.def", "Dockerfile"):
        text = (context / recipe).read_text()
        assert "PYTHONNOUSERSITE=1" in text
        assert f"python:{sys.version_info.major}.{sys.version_info.minor}-slim" in text
        assert "/app/requirements.txt -c /app/constraints.txt" in text
    assert "predict.py --t1 t1.nii.gz --t2 t2.nii.gz --output sub_1.txt" in (context / "README.md").read_text()


def test_the_same_bundle_gives_the_same_context(contexts: Path, bundles: Path) -> None:
    before = {path: path.read_bytes() for path in (contexts / "age").rglob("*") if path.is_file()}
    main(["build", "--task", "age", "--bundle", str(bundles / "age/00"), "--output", str(contexts / "age")])
    assert {path: path.read_bytes() for path in (contexts / "age").rglob("*") if path.is_file()} == before


def test_a_context_is_replaced_from_inside_and_through_a_link_and_nothing_else_is(
    bundles: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["build", "--task", "age", "--bundle", str(bundles / "age/00"), "--output"]
    main([*command, str(tmp_path / "context")])
    (tmp_path / "link").symlink_to(tmp_path / "context")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "challenge.json").write_text('{"title": "of another kind"}')
    for output in (".", "../link"):
        monkeypatch.chdir(tmp_path / "context")
        (tmp_path / "context" / "stale").touch()
        main([*command, output])
        assert not (tmp_path / "context" / "stale").exists()
    with pytest.raises(SystemExit):
        main([*command, str(tmp_path / "mine")])
    assert "is there and no build context" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["context", "link", "mine"]
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["challenge.json"]


def test_the_required_packages_are_enough_and_the_code_is_the_folders_own(
    contexts: Path, data: Path, tmp_path: Path
) -> None:
    """Every package that the pinned ones do not bring with them is hidden."""
    hide = tmp_path / "sitecustomize.py"
    hide.write_text(f"""
import sys
from importlib import metadata

allowed = {sorted(closure(REQUIREMENTS))!r}
of_module = metadata.packages_distributions()

class Hide:
    def find_spec(self, name, path=None, target=None):
        owners = of_module.get(name.partition(".")[0], [])
        if owners and not any(owner.lower().replace("_", "-") in allowed for owner in owners):
            raise ModuleNotFoundError("hidden: " + name, name=name)

sys.meta_path.insert(0, Hide())
import atexit
atexit.register(lambda: print("from", sys.modules["fomo_ssl"].__file__))
""")
    scans = find_scans(TASKS["meningioma"], data / "meningioma/preprocessed/sub_2")
    flags = [word for name, path in scans.items() for word in (f"--{name}", str(path))]
    context = contexts / "meningioma"
    command = [sys.executable, str(context / "predict.py"), *flags, "--output", str(tmp_path / "m.nii.gz")]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert f"from {context / 'fomo_ssl'}" in done.stdout
    assert (tmp_path / "m.nii.gz").is_file()


def closure(names: tuple[str, ...]) -> set[str]:
    """The packages, and those that they need here without extras."""
    found: set[str] = set()
    todo = list(names)
    while todo:
        name = re.sub(r"[-_.]+", "-", todo.pop()).lower()
        if name in found:
            continue
        try:
            needs = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        found.add(name)
        todo += [r.name for r in map(Requirement, needs) if r.marker is None or r.marker.evaluate({"extra": ""})]
    return found


WRONG: dict[str, tuple[str, str, str]] = {
    "no number": ("infarct", "open(output, 'w').write('maybe')", "not one number"),
    "two numbers": ("infarct", "open(output, 'w').write('0.1 0.9')", "not one number"),
    "no probability": ("infarct", "open(output, 'w').write('1.5')", "not between 0 and 1"),
    "not finite": ("age", "open(output, 'w').write('nan')", "not finite"),
    "nothing": ("age", "pass", "no output"),
    "an exit code": ("age", "sys.exit('it broke')", "it broke"),
    "too slow": ("age", "import time; time.sleep(60)", "over 2 s"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_container_that_does_not_conform_is_found_out(name: str, contexts: Path, data: Path, tmp_path: Path) -> None:
    task, script, message = WRONG[name]
    lines = lines_of(with_script(contexts / task, tmp_path, script), data / task, 2.0 if name == "too slow" else 120.0)
    for subject in ("sub_1", "sub_2"):
        assert any(message in wrong for wrong in lines[subject].wrong), lines[subject]
    assert not lines["broken file"].wrong


def test_a_try_to_reach_a_network_is_found_out(contexts: Path, data: Path, tmp_path: Path) -> None:
    script = """
open(output, 'w').write('50')
import contextlib, socket
with contextlib.suppress(OSError):
    socket.create_connection(("weights.example", 80), timeout=1)
with contextlib.suppress(OSError):
    socket.socket().connect(("192.0.2.1", 80))
"""
    lines = lines_of(with_script(contexts / "age", tmp_path, script), data / "age")
    assert not lines["sub_1"].wrong
    assert lines["network"].wrong == ("4 tries",)
    assert "weights.example" in lines["network"].found


def test_input_that_is_taken_without_a_word_is_found_out(contexts: Path, data: Path, tmp_path: Path) -> None:
    context = with_script(contexts / "age", tmp_path, "")
    (context / "predict.py").write_text("import sys; open(sys.argv[sys.argv.index('--output') + 1], 'w').write('50')")
    lines = lines_of(context, data / "age")
    assert not lines["sub_1"].wrong
    for name in ("no scans", "missing file", "broken file"):
        assert lines[name].wrong == ("no exit code that says so", "0 lines of error", "an output all the same")


def test_masks_are_judged_by_grid_and_values(data: Path, tmp_path: Path) -> None:
    task = TASKS["meningioma"]
    scans = find_scans(task, data / "meningioma/preprocessed/sub_1")
    scan = read(scans["flair"])
    good = np.zeros(scan.data.shape, np.uint8)
    good[3:6, 4:9, 5] = 1
    cases = {
        "good": (good, scan.affine, []),
        "flipped": (good, np.diag([-1, 1, 1, 1]) @ scan.affine, ["another affine"]),
        "cut": (good[:-1], scan.affine, ["shape (27, 32, 24)"]),
        "empty": (0 * good, scan.affine, ["the same value everywhere"]),
        "of 255": (255 * good, scan.affine, ["values 0, 255"]),
        "probability": (good * 0.5, scan.affine, ["values 0, 0.5"]),
    }
    for name, (mask, affine, expected) in cases.items():
        write(tmp_path / f"{name}.nii.gz", mask, affine)
        _, wrong = judge(task, tmp_path / f"{name}.nii.gz", scans)
        assert len(wrong) == len(expected), (name, wrong)
        assert all(part in found for part, found in zip(expected, wrong, strict=True)), (name, wrong)
    (tmp_path / "text.nii.gz").write_text("no image")
    assert judge(task, tmp_path / "text.nii.gz", scans)[0] == "unreadable"


def test_a_case_without_all_scans_fails_as_in_the_validator(contexts: Path, data: Path, tmp_path: Path) -> None:
    shutil.copytree(data / "age", tmp_path / "age")
    (tmp_path / "age/preprocessed/sub_2/ses_1/t2.nii.gz").unlink()
    context = with_script(contexts / "age", tmp_path, "open(output, 'w').write('50')")
    lines = lines_of(context, tmp_path / "age")
    assert lines["sub_2"].wrong == ("1 scans, the task has 2",)
    assert not lines["sub_1"].wrong


def test_what_an_interrupted_check_left_behind_is_no_output(contexts: Path, data: Path, tmp_path: Path) -> None:
    context = with_script(contexts / "age", tmp_path, "open(output, 'w').write('50')")
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "mistake.txt").write_text("50")
    lines = {line.name: line for line in check(context, data / "age", outputs=kept)}
    assert not lines["no scans"].wrong
    assert sorted(path.name for path in kept.iterdir()) == ["sub_1.txt", "sub_2.txt"]


MISTAKES = {
    "bundles of two tasks": (["build", "--task", "age", "--bundle", "AGE", "INFARCT", "--output", "OUT"], "one task"),
    "no context": (["check", "DATA", "--cases", "DATA"], "no build context"),
    "no cases": (["check", "CONTEXT", "--cases", "CONTEXT"], "no cases"),
    "no bundle": (["build", "--task", "age", "--bundle", "DATA", "--output", "OUT"], "no bundle here"),
    "another task's bundle": (
        ["build", "--task", "age", "--bundle", "INFARCT", "--output", "OUT"],
        "age is a regression",
    ),
    "an unknown task": (["build", "--task", "task4", "--bundle", "INFARCT", "--output", "OUT"], "invalid choice"),
    "a folder in use": (["build", "--task", "infarct", "--bundle", "INFARCT", "--output", "DATA"], "no build context"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_one_line_and_exit_code_2(
    name: str, contexts: Path, bundles: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = {"DATA": data, "CONTEXT": contexts / "age", "INFARCT": bundles / "infarct/00", "OUT": tmp_path / "out"}
    places["AGE"] = bundles / "age/00"
    arguments, message = MISTAKES[name]
    with pytest.raises(SystemExit) as stop:
        main([str(places.get(word, word)) for word in arguments])
    err = capsys.readouterr().err
    assert stop.value.code == 2
    assert err.count("\n") == 1
    assert message in err
    assert not (tmp_path / "out").exists()
