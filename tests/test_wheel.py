import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

COMPOSE = """
import sys
from pathlib import Path
import fomo_ssl
from fomo_ssl.config import compose, conf_dir

assert Path(fomo_ssl.__file__).is_relative_to(sys.argv[1]), fomo_ssl.__file__
assert conf_dir().is_relative_to(sys.argv[1]), conf_dir()
needed = {
    "preprocess": ["source=a", "store=b"],
    "pretrain": ["store=a", "run=b"],
    "finetune": ["bundle=a", "task_path=b", "run=c"],
    "evaluate": ["runs=a"],
}
roots = sorted(path.stem for path in conf_dir().glob("*.yaml"))
assert set(needed) <= set(roots), roots
for name in roots:
    assert compose(name, needed.get(name, [])), name
print(*roots)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    return next(out.glob("*.whl"))


@pytest.mark.slow
def test_the_wheel_holds_what_is_not_code(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    conf = {f"fomo_ssl/conf/{path.relative_to(ROOT / 'conf')}" for path in (ROOT / "conf").rglob("*.yaml")}
    assert conf <= names
    assert {"fomo_ssl/py.typed", "fomo_ssl/report/templates/report.html.j2"} <= names
    assert not [name for name in names if name.startswith(("tests", "benchmarks", "conf/"))]


@pytest.mark.slow
def test_an_installed_wheel_composes_every_root_and_runs_from_anywhere(wheel: Path, tmp_path: Path) -> None:
    target, elsewhere = tmp_path / "target", tmp_path / "elsewhere"
    elsewhere.mkdir()
    pip = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--quiet", "--target", str(target)]
    subprocess.run([*pip, str(wheel)], check=True, capture_output=True, timeout=300)
    environment = os.environ | {"PYTHONPATH": str(target)}

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, *arguments]
        return subprocess.run(
            command, cwd=elsewhere, env=environment, capture_output=True, text=True, timeout=300, check=False
        )

    composed = run("-c", COMPOSE, str(target))
    assert composed.returncode == 0, composed.stderr
    done = run("-m", "fomo_ssl.pretrain", "store=nowhere", "run=out")
    assert done.returncode == 2, done.stderr
    assert "nowhere" in done.stderr
    assert done.stderr.count("\n") == 1
