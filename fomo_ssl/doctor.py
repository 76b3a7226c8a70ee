"""What this machine has, what is wrong with it, and the way out.

Imports nothing but the standard library at the top: it has to speak where torch, Lightning or rich do not load.
Each `check_*` is a pure function of what a probe found; `examine` probes and calls them.
"""

import enum
import importlib
import importlib.metadata
import os
import platform
import re
import shutil
import sys
import textwrap
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from fomo_ssl.core.arguments import Arguments
from fomo_ssl.core.errors import entry
from fomo_ssl.core.processor import multiplies_bf16, processor_name

_GB = 1e9
_PAIR = "install the matching pair: pip install -c constraints.txt torch torchvision (both from the same index)"


class Level(enum.StrEnum):
    """How a check came out; only `FAIL` makes the exit code 2."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True)
class Row:
    """One line of the table: what was looked at, the verdict, what was found, and what to do about it."""

    check: str
    level: Level
    found: str
    way_out: str = ""


@dataclass(frozen=True)
class Package:
    """A probe of one package: its version as installed (None = absent) and why it does not import (None = it does)."""

    name: str
    version: str | None
    error: str | None = None


def probe(name: str) -> Package:
    """Import a package and say what happened; any exception counts, a broken build raises all kinds."""
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return Package(name, None, "not installed")
    try:
        importlib.import_module(name)
    except Exception as error:
        return Package(name, version, f"{type(error).__name__}: {error}".split("\n")[0])
    return Package(name, version)


def check_python(version: tuple[int, int, int]) -> Row:
    """Python 3.11 or newer."""
    text = ".".join(map(str, version))
    if version < (3, 11):
        return Row("python", Level.FAIL, text, "use Python 3.11 or newer")
    return Row("python", Level.OK, text)


def check_import(package: Package, *, blame: str | None = None) -> Row:
    """A package that has to load; `blame` names an earlier failure that explains this one."""
    if package.error is None:
        return Row(package.name, Level.OK, str(package.version))
    if package.version is None:
        return Row(package.name, Level.FAIL, "not installed", f"pip install -c constraints.txt {package.name}")
    reinstall = f"pip install -c constraints.txt --force-reinstall {package.name}"
    way_out = f"follows from {blame} above" if blame else reinstall
    return Row(package.name, Level.FAIL, f"{package.version} does not load ({package.error})", way_out)


def expected_torchvision(torch_version: str) -> str | None:
    """The torchvision series that was built for a torch 2.x: minor + 15 (torch 2.14 -> "0.29"); None for others."""
    match = re.match(r"2\.(\d+)", torch_version)
    return f"0.{int(match[1]) + 15}" if match else None


def check_torchvision(torch: Package, torchvision: Package) -> Row:
    """Whether torchvision's compiled operators load beside this torch, and why not.

    Up to 0.29.1 torchvision's library is linked against one build of torch; later ones take any torch from 2.14 on.
    Beside a wrong one (a CPU-only torch from the PyTorch index with the registry's torchvision, or another series) the
    operator `torchvision::nms` is not registered, and `import timm` and `import lightning` fail with it.
    """
    name = torchvision.name
    if torch.version is None or torchvision.version is None:
        return check_import(torchvision)
    if torchvision.error is None:
        return Row(name, Level.OK, torchvision.version)
    found = f"{torchvision.version} beside torch {torch.version}"
    series, builds = expected_torchvision(torch.version), (_build(torch.version), _build(torchvision.version))
    if series and not re.match(rf"{re.escape(series)}(\D|$)", torchvision.version):
        return Row(name, Level.FAIL, f"{found}, which came with {series}", _PAIR)
    if builds[0] != builds[1]:
        return Row(name, Level.FAIL, f"{found}: builds {builds[0]} and {builds[1]} do not fit", _PAIR)
    return Row(name, Level.FAIL, f"{found} does not load ({torchvision.error})", _PAIR)


def _build(version: str) -> str:
    """The local part of a version: `2.14.1+cpu` -> "cpu"; none means the registry's build."""
    return version.partition("+")[2] or "registry"


def check_device(cuda_build: str | None, devices: list[str], bf16: bool, driver: bool) -> Row:
    """The accelerator: names, bf16, and the two usual reasons why a card is not seen."""
    if devices:
        precision = "bf16" if bf16 else "no bf16"
        way_out = "" if bf16 else "nothing is to be done: precision=auto takes 16-mixed; 32-true is slower and safer"
        return Row("accelerator", Level.OK if bf16 else Level.WARN, f"{', '.join(devices)} ({precision})", way_out)
    if driver and cuda_build is None:
        return Row("accelerator", Level.WARN, "an NVIDIA driver, but torch is a CPU-only build", _PAIR)
    if driver:
        way_out = "update the driver, or check CUDA_VISIBLE_DEVICES and the container's --gpus"
        return Row("accelerator", Level.WARN, f"an NVIDIA driver, but torch (CUDA {cuda_build}) sees no card", way_out)
    return Row("accelerator", Level.OK, "none, the CPU is used")


def check_cores(cores: float, name: str, bf16: bool | None) -> Row:
    """Cores that this process may use, after affinity and container limits, and whether bf16 speeds them up."""
    kind = {True: ", bf16", False: ": no bf16, keep precision=32-true", None: ""}[bf16]
    return Row("cores", Level.OK, f"{cores:g} of {name}{kind}")


def check_memory(available: int) -> Row:
    """Free memory; below 4 GB the base encoders do not train."""
    few = available < 4 * _GB
    way_out = "use a tiny encoder, crop=64 and fewer workers" if few else ""
    return Row("memory", Level.WARN if few else Level.OK, f"{available / _GB:.1f} GB free", way_out)


def check_disk(folder: Path, free: int) -> Row:
    """Free disk where runs are written: a checkpoint is three times the model, and two are kept."""
    few = free < 5 * _GB
    way_out = "free space, or put run= and store= on another disk" if few else ""
    return Row("disk", Level.WARN if few else Level.OK, f"{free / _GB:.0f} GB free at {folder}", way_out)


def check_shared_memory(size: int | None) -> Row:
    """`/dev/shm`, through which NCCL exchanges between GPUs; containers give 64 MB unless told otherwise."""
    if size is None:
        return Row("shared memory", Level.OK, "no /dev/shm on this system")
    few = size < _GB
    way_out = "for several GPUs start the container with --shm-size=8g or --ipc=host; batches need none" if few else ""
    return Row("shared memory", Level.WARN if few else Level.OK, f"{size / _GB:.2f} GB in /dev/shm", way_out)


def check_conf() -> Row:
    """The Hydra tree, in the package or beside it."""
    try:
        from fomo_ssl.config import conf_dir

        return Row("configuration", Level.OK, str(conf_dir()))
    except Exception as error:
        way_out = "reinstall the package; the wheel holds fomo_ssl/conf"
        return Row("configuration", Level.FAIL, f"{type(error).__name__}: {error}", way_out)


def check_test_data(root: Path) -> Row:
    """The real scans that the tests and the examples use."""
    if (root / "fomo_flat").is_dir():
        return Row("test data", Level.OK, str(root))
    return Row("test data", Level.WARN, f"not at {root}", "set FOMO_SSL_TEST_DATA; tests on real scans are skipped")


def examine() -> list[Row]:
    """Probe this machine and judge it, one row a check."""
    torch, torchvision = probe("torch"), _probe_torchvision()
    pair = check_torchvision(torch, torchvision)
    broken = next((row.check for row in (check_import(torch), pair) if row.level is Level.FAIL), None)
    return [
        check_python(sys.version_info[:3]),
        check_import(torch),
        pair,
        *(check_import(probe(name), blame=broken) for name in ("timm", "lightning", "monai")),
        _device() if torch.error is None else Row("accelerator", Level.WARN, "not known without torch"),
        check_cores(_cores(), processor_name(), multiplies_bf16()),
        check_memory(_available_memory()),
        check_disk(Path.cwd(), shutil.disk_usage(Path.cwd()).free),
        check_shared_memory(shutil.disk_usage("/dev/shm").total if Path("/dev/shm").is_dir() else None),
        check_conf(),
        check_test_data(_test_data()),
    ]


def _probe_torchvision() -> Package:
    """torchvision with its own idea of its build, and the operator that a wrong pair lacks."""
    package = probe("torchvision")
    if package.error is not None:
        return package
    try:
        import torch

        torch.ops.torchvision.nms  # noqa: B018 - looking the operator up is the test
    except (AttributeError, RuntimeError) as error:
        return Package("torchvision", package.version, f"{type(error).__name__}: {error}".split("\n")[0])
    return package


def _device() -> Row:
    import torch

    devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    driver = Path("/proc/driver/nvidia/version").exists() or shutil.which("nvidia-smi") is not None
    # As `training.trainer.choose_precision` asks: older cards emulate it, at a fraction of their speed.
    bf16 = bool(devices) and torch.cuda.is_bf16_supported(including_emulation=False)
    return check_device(torch.version.cuda, devices, bf16, driver)


def _cores() -> float:
    """Cores by affinity, and no more than the container's quota."""
    cores = float(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    quota = _read("/sys/fs/cgroup/cpu.max").split()
    return min(cores, int(quota[0]) / int(quota[1])) if len(quota) == 2 and quota[0] != "max" else cores


def _available_memory() -> int:
    """Free bytes, and no more than what the container's limit leaves."""
    match = re.search(r"MemAvailable:\s+(\d+) kB", _read("/proc/meminfo"))
    free = int(match[1]) * 1024 if match else os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit, used = _read("/sys/fs/cgroup/memory.max").strip(), _read("/sys/fs/cgroup/memory.current").strip()
    return min(free, int(limit) - int(used)) if limit.isdigit() and used.isdigit() else free


def _read(path: str) -> str:
    """A small system file as text, empty where this system has none."""
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def _test_data() -> Path:
    return Path(os.environ.get("FOMO_SSL_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))


def table(rows: Iterable[Row], width: int) -> str:
    """The rows as text; the way out stands on its own line under what it answers."""
    lines = []
    for row in rows:
        lines.append(f"{row.level:<5} {row.check:<14} {row.found}")
        if row.way_out:
            lines += textwrap.wrap(f"→ {row.way_out}", width, initial_indent=" " * 21, subsequent_indent=" " * 23)
    return "\n".join(lines)


@entry
def main() -> None:
    """Print the table; exit code 2 where a check failed."""
    Arguments(prog="python -m fomo_ssl.doctor", description="Check this machine for fomo_ssl.").parse_args()
    print(f"fomo_ssl on {platform.platform()}")
    rows = examine()
    print(table(rows, shutil.get_terminal_size((120, 24)).columns))
    failed = [row.check for row in rows if row.level is Level.FAIL]
    print(f"\nNot ready: {', '.join(failed)}." if failed else "\nReady.")
    if failed:
        raise SystemExit(2)


if __name__ == "__main__":
    main()
