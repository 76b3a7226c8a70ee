"""Brain age with few subjects: mean predictor, ridge on a coarse image grid, frozen probe, finetuned runs.

    python benchmarks/brain_age.py TASK --bundle BUNDLE --runs runs/age --output brain_age.csv

All rows are cross-validated, the first three with one subject left out; errors are in years, over all cases and within
each dataset. Within a dataset every row is also fitted on that dataset alone: age and dataset may go together, and a
model that tells datasets apart then looks better than it is. `--runs` adds what `python -m fomo_ssl.finetune mode=cv`
left, as it was trained: on all datasets.
"""

import argparse
import csv
from pathlib import Path

import numpy as np

from fomo_ssl.downstream.cases import centre_origin, prepare, window
from fomo_ssl.downstream.probe import cross_validate, embed_case
from fomo_ssl.downstream.scores import Predictions, intervals
from fomo_ssl.downstream.summary import summarise
from fomo_ssl.downstream.tasks import Task, load_task
from fomo_ssl.imaging.canonical import CanonicalSpec
from fomo_ssl.imaging.resample import resample

GRID = 12
ALPHA = 10.0


def coarse_grids(task: Task, spacing: float) -> np.ndarray:
    """Each brain centred in a common box and averaged to GRID^3 numbers."""
    volumes = [prepare(case.images, task.sequences[:1], CanonicalSpec(spacing)) for case in task.cases]
    box = tuple(max(v.image.shape[axis + 1] for v in volumes) for axis in range(3))
    grids = []
    for volume in volumes:
        image = window(volume.image, centre_origin(volume.image.shape[1:], box), box, volume.background)[0]
        # Integer boxes of the same number of voxels would cut the brain: resampling with a widened kernel averages.
        edge = tuple(n / GRID for n in box)
        grids.append(resample(image, (1.0, 1.0, 1.0), edge, "linear")[:GRID, :GRID, :GRID].ravel())
    return np.stack(grids)


def leave_one_out(features: np.ndarray | None, ages: np.ndarray) -> np.ndarray:
    """Predictions by ridge, or by the mean of the others where there are no features."""
    from sklearn.linear_model import Ridge

    predicted = np.zeros(len(ages))
    for left_out in range(len(ages)):
        others = np.arange(len(ages)) != left_out
        if features is None:
            predicted[left_out] = ages[others].mean()
        else:
            model = Ridge(alpha=ALPHA).fit(features[others], ages[others])
            predicted[left_out] = model.predict(features[~others])[0]
    return predicted


def rows_of(
    name: str, task: Task, features: np.ndarray | None, *, inner_choice: bool = False
) -> list[dict[str, object]]:
    datasets = np.array([case.dataset for case in task.cases])
    groups = {"all": np.arange(len(datasets))}
    if len(set(datasets)) > 1:
        groups |= {f"{name} alone": np.flatnonzero(datasets == name) for name in sorted(set(datasets))}
    rows = []
    for group, members in groups.items():
        ages = np.array([float(task.cases[i].label) for i in members])
        ids = tuple(task.cases[i].subject for i in members)
        if inner_choice:
            predicted = cross_validate(features[members], ages, ids, "regression")["prediction"]
        else:
            predicted = leave_one_out(None if features is None else features[members], ages)
        table = Predictions("regression", ids, ids, ("",) * len(ids), {"target": ages, "prediction": predicted})
        rows.append(row(name, group, intervals([table])))
    return rows


def row(name: str, group: str, found: dict) -> dict[str, object]:
    mae, pearson = found["mae"], found.get("pearson")
    values = {"method": name, "cases": group, "n": mae.n, "mae": mae.value, "low": mae.low, "high": mae.high}
    values["pearson"] = pearson.value if pearson else float("nan")
    return {key: round(value, 3) if isinstance(value, float) else value for key, value in values.items()}


def finetuned(run: Path) -> list[dict[str, object]]:
    found: dict[tuple[str, str], dict] = {}
    for line in summarise(run):
        for arm in ("pretrained", "scratch"):
            if getattr(line, arm) is not None:
                found.setdefault((f"{run.name}, {line.setting}, {arm}", line.dataset), {})[line.metric] = getattr(
                    line, arm
                )
    return [row(name, group, metrics) for (name, group), metrics in found.items()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", type=Path)
    parser.add_argument("--bundle", type=Path, action="append", default=[])
    parser.add_argument("--runs", type=Path, action="append", default=[])
    parser.add_argument("--spacing", type=float, default=2.0)
    parser.add_argument("--output", type=Path, default=Path("brain_age.csv"))
    args = parser.parse_args()
    task = load_task(args.task)
    rows = rows_of("mean predictor", task, None)
    rows += rows_of(f"ridge on {GRID}^3", task, coarse_grids(task, args.spacing))
    for bundle in args.bundle:
        from fomo_ssl.bundle import load_encoder

        encoder = load_encoder(bundle)
        features = np.stack([embed_case(encoder, [case.images[s] for s in task.sequences]) for case in task.cases])
        rows += rows_of(f"probe of {bundle}", task, features, inner_choice=True)
    for run in args.runs:
        rows += finetuned(run)
    with args.output.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    print(args.output.read_text())


if __name__ == "__main__":
    main()
