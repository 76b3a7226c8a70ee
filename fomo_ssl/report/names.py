"""What a report calls its methods: as short as can be, with different things named differently."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from fomo_ssl.report.runs import INITS, Run
from fomo_ssl.report.tasks import task_names


def method_names(runs: Sequence[Run]) -> dict[tuple[str, str], str]:
    """What to call each arm of each run (path, init): as short as it can be with different things named differently."""
    encoders, bundles = _encoders(runs), _bundles(runs)
    tasks = task_names(runs)
    names: dict[tuple[str, str], str] = {}
    called: Counter[tuple[object, ...]] = Counter()
    folders = Counter(run.path.name for run in runs)
    domains = _domains(runs, tasks)
    for run in runs:
        for init in {unit.init for unit in run.units}:
            detail = bundles[str(run.bundle)] if init == "pretrained" else encoders[str(run.path)]
            alike = len(bundles if init == "pretrained" else set(encoders.values())) < 2
            names[str(run.path), init] = (init if alike else f"{init} {detail}") + domains[str(run.path)]
            called[_task(run, tasks), names[str(run.path), init]] += 1
    for run in runs:
        for init in INITS:
            key = (str(run.path), init)
            if called[_task(run, tasks), names.get(key)] > 1:  # same start, other values of training
                names[key] += f" ({run.path.name if folders[run.path.name] == 1 else run.path})"
    return names


def _domains(runs: Sequence[Run], tasks: Mapping[str, str]) -> dict[str, str]:
    """What each run (path) was trained on, where runs of one task were trained on different datasets; else nothing."""
    of_task: dict[object, set[tuple[str, ...]]] = {}
    for run in runs:
        if run.trained_on:
            of_task.setdefault(_task(run, tasks), set()).add(run.trained_on)
    # In all tasks or in none: a method keeps its name from one to the next.
    differ = any(len(domains) > 1 for domains in of_task.values())
    return {
        str(run.path): f", trained on {' and '.join(run.trained_on)}" if differ and run.trained_on else ""
        for run in runs
    }


def _encoders(runs: Sequence[Run]) -> dict[str, str]:
    """The encoder of each run (path): its name, and the arguments in which encoders of that name differ."""
    of = {str(run.path): {"name": "?", **run.recipe.get("encoder", {})} for run in runs}
    labels = {}
    for path, encoder in of.items():
        alike = [other for other in of.values() if other["name"] == encoder["name"]]
        differing = [key for key in encoder if any(other.get(key) != encoder[key] for other in alike)]
        labels[path] = " ".join([str(encoder["name"]), *(f"{key}={_plain(encoder[key])}" for key in differing)])
    return labels


def _bundles(runs: Sequence[Run]) -> dict[str, str]:
    """The name of each bundle (path); of those that are called alike, with the folders that tell them apart."""
    of = {str(run.bundle): run for run in runs if run.bundle}
    names = {path: bundle_name(run) for path, run in of.items()}
    parts = {path: Path(path.removesuffix("/bundle")).parts for path in of}
    for depth in range(2, 1 + max(map(len, parts.values()), default=0)):
        alike = Counter(names.values())
        names |= {path: "/".join(parts[path][-depth:]) for path, name in names.items() if alike[name] > 1}
    return names


def _plain(value: object) -> str:
    return "-".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _task(run: Run, tasks: Mapping[str, str]) -> tuple[str, str, int]:
    return tasks[str(run.path)], str(run.recipe.get("task_kind")), run.folds


def bundle_name(run: Run) -> str:
    """The pretraining run that made the bundle: `runs/x_mae_vit_s/bundle` -> `x_mae_vit_s`.

    Of several lengths, `runs/x_mae/samples_10000/bundle`, the length alone would name many: `x_mae samples_10000`.
    """
    assert run.bundle is not None
    if run.bundle.name != "bundle":
        return run.bundle.name
    folder = run.bundle.parent
    return f"{folder.parent.name} {folder.name}" if folder.name.startswith("samples_") else folder.name
