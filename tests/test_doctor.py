import re
import subprocess
import sys
from pathlib import Path

import pytest

from fomo_ssl import doctor
from fomo_ssl.config import compose
from fomo_ssl.doctor import Level, Package

NMS = "RuntimeError: operator torchvision::nms does not exist"


@pytest.mark.parametrize(
    ("torch", "series"),
    [("2.11.0", "0.26"), ("2.13.0+cu130", "0.28"), ("2.14.1", "0.29"), ("2.14.0+cpu", "0.29"), ("3.0.0", None)],
)
def test_torchvision_series_follows_torch(torch: str, series: str | None) -> None:
    assert doctor.expected_torchvision(torch) == series


def pair(torch: str, torchvision: str, error: str | None = None) -> doctor.Row:
    return doctor.check_torchvision(Package("torch", torch), Package("torchvision", torchvision, error))


def test_a_card_that_emulates_bf16_is_told_as_training_takes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Tesla T4")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    assert doctor._device().found == "Tesla T4 (no bf16)"


@pytest.mark.parametrize(
    ("torch", "torchvision"),
    [("2.14.1", "0.29.1"), ("2.14.1+cpu", "0.29.1+cpu"), ("2.15.0", "0.29.2"), ("3.0", "0.40")],
)
def test_a_pair_that_loads_is_ok(torch: str, torchvision: str) -> None:
    assert pair(torch, torchvision).level is Level.OK


def test_cpu_torch_beside_registry_torchvision_names_both_builds_and_the_pair() -> None:
    row = pair("2.14.1+cpu", "0.29.1", NMS)
    assert row.level is Level.FAIL
    assert "builds cpu and registry" in row.found
    assert "constraints.txt" in row.way_out


def test_another_series_is_blamed_where_the_operators_are_missing() -> None:
    row = pair("2.14.1", "0.28.0", NMS)
    assert row.level is Level.FAIL
    assert "came with 0.29" in row.found
    # 0.2 is no prefix of 0.29, and 0.290 is another series.
    assert "came with 0.29" in pair("2.14.1", "0.290.0", NMS).found


def test_the_right_series_that_does_not_load_says_why() -> None:
    row = pair("2.14.1", "0.29.1", NMS)
    assert row.level is Level.FAIL
    assert "nms" in row.found


def test_missing_torchvision_is_a_failure() -> None:
    row = doctor.check_torchvision(Package("torch", "2.14.1"), Package("torchvision", None, "not installed"))
    assert row.level is Level.FAIL
    assert "pip install" in row.way_out


def test_a_broken_import_is_blamed_on_what_broke_it() -> None:
    row = doctor.check_import(Package("lightning", "2.6.6", NMS), blame="torchvision")
    assert row.level is Level.FAIL
    assert row.way_out == "follows from torchvision above"
    assert "force-reinstall" in doctor.check_import(Package("lightning", "2.6.6", NMS)).way_out


def test_probe_survives_packages_that_raise_and_that_are_absent() -> None:
    absent = doctor.probe("no-such-package-at-all")
    assert (absent.version, absent.error) == (None, "not installed")
    assert doctor.probe("jinja2").error is None


def test_accelerator_verdicts() -> None:
    assert doctor.check_device("13.0", [], False, driver=False).level is Level.OK
    assert "CPU-only build" in doctor.check_device(None, [], False, driver=True).found
    assert "CUDA_VISIBLE_DEVICES" in doctor.check_device("13.0", [], False, driver=True).way_out
    without = doctor.check_device("13.0", ["Tesla V100"], False, driver=True)
    assert without.level is Level.WARN
    for word in re.findall(r"([\w.]+)=", without.way_out):
        assert word in compose("pretrain", ["store=s"]), "a key of the command"
    assert doctor.check_device("13.0", ["H100"], True, driver=True).level is Level.OK


def test_little_room_is_a_warning_with_a_way_out(tmp_path: Path) -> None:
    rows = [
        doctor.check_memory(10**9),
        doctor.check_disk(tmp_path, 10**9),
        doctor.check_shared_memory(64 * 2**20),
        doctor.check_test_data(tmp_path),
    ]
    assert all(row.level is Level.WARN and row.way_out for row in rows)
    assert doctor.check_shared_memory(None).level is Level.OK
    assert doctor.check_python((3, 10, 4)).level is Level.FAIL


def test_table_puts_the_way_out_under_its_row() -> None:
    lines = doctor.table([doctor.check_memory(10**9), doctor.check_cores(2.0, "a CPU", None)], width=60).split("\n")
    assert lines[0].startswith("warn  memory")
    assert lines[1].strip().startswith("→")
    assert lines[-1] == "ok    cores          2 of a CPU"
    assert "2 of a CPU: no bf16" in doctor.check_cores(2.0, "a CPU", False).found


def test_doctor_speaks_where_lightning_does_not_load(tmp_path: Path) -> None:
    """A torchvision whose operators are missing takes lightning with it; the doctor still prints its table."""
    (tmp_path / "lightning.py").write_text(f"raise RuntimeError({NMS!r})\n")
    for slow in ("timm", "monai"):
        (tmp_path / f"{slow}.py").touch()
    code = (
        "import sys, torch; sys.argv = ['doctor'];"
        f"sys.path.insert(0, {str(tmp_path)!r});"
        "from fomo_ssl import doctor; doctor.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2, done.stderr
    assert "does not load (RuntimeError" in done.stdout
    assert "Not ready: lightning" in done.stdout
    assert "Traceback" not in done.stderr
