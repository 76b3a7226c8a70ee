"""Which runs of a report are of one task: of one name there may be several, such as two tables called train.csv."""

from collections.abc import Sequence
from pathlib import Path

from fomo_ssl.report.runs import Run


def task_names(runs: Sequence[Run]) -> dict[str, str]:
    """What to call the task of each run (path).

    Its name, and where runs of one name and kind are of several tasks, in brackets what tells these apart: the end of
    the task's path, else the runs.
    """
    of_name: dict[tuple[object, object], list[Run]] = {}
    for run in runs:
        of_name.setdefault((run.recipe.get("task"), run.recipe.get("task_kind")), []).append(run)
    names: dict[str, str] = {}
    for (name, _), of_one in of_name.items():
        groups = _groups(of_one)
        for group, detail in zip(groups, _details(groups), strict=True):
            title = str(name) if len(groups) == 1 else f"{name} ({detail})"
            names |= {str(run.path): title for run in group}
    return names


def _groups(runs: Sequence[Run]) -> list[list[Run]]:
    """Runs of one task together; one that says too little joins the first group that nothing speaks against."""
    groups: list[list[Run]] = []
    for run in sorted(runs, key=lambda run: run.record.get("task_path") is None):
        alike = [[_same_task(run, member) for member in group] for group in groups]
        sure = [i for i, answers in enumerate(alike) if True in answers]
        possible = [i for i, answers in enumerate(alike) if False not in answers]
        if found := sure or possible:
            groups[found[0]].append(run)
        else:
            groups.append([run])
    return groups


def _same_task(run: Run, other: Run) -> bool | None:
    """Whether two runs of one name are of one task: by its path, or else by the files of their cases.

    None where nothing says. The digests of a task's cases do not compare where other sequences of them were read.
    """
    paths = run.record.get("task_path"), other.record.get("task_path")
    if None not in paths and paths[0] == paths[1]:
        return True
    mine, theirs = run.record.get("cases", {}), other.record.get("cases", {})
    shared = mine.keys() & theirs.keys()
    if shared and run.recipe.get("sequences") == other.recipe.get("sequences"):
        return all(mine[name] == theirs[name] for name in shared)
    return None if None in paths else False


def _details(groups: Sequence[Sequence[Run]]) -> list[str]:
    """The shortest ends of the tasks' paths that differ; without paths, the names of the runs."""
    paths = [next(filter(None, (run.record.get("task_path") for run in group)), None) for group in groups]
    if None in paths or len(set(paths)) < len(paths):
        return [", ".join(run.path.name for run in group) for group in groups]
    parts = [Path(str(path)).parts for path in paths]
    ends = (["/".join(of[-depth:]) for of in parts] for depth in range(1, 1 + max(map(len, parts))))
    return next(end for end in ends if len(set(end)) == len(end))
