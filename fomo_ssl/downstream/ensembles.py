"""The seeds of a segmentation as one model: tested by the mean of their probabilities, as `predict` takes it.

Numbers need no such work: the mean of what the seeds said is in their tables. Masks do, for probabilities are not kept.
"""

import json
import shutil
from collections.abc import Callable, MutableMapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from fomo_ssl.core.files import write_json, write_text
from fomo_ssl.downstream import scores
from fomo_ssl.downstream.cases import Example
from fomo_ssl.downstream.inference import load_models, predict_mask
from fomo_ssl.downstream.metrics import segmentation_metrics
from fomo_ssl.downstream.unit import Init, Plan, Unit


@dataclass(frozen=True)
class Ensemble:
    """The units of one amount of training data and one start; every seed was tested on all of its cases."""

    name: str
    init: Init
    units: tuple[Unit, ...]

    @property
    def cases(self) -> list[str]:
        """Names of the test cases, in the order of the units' tables."""
        first = self.units[0].split.seed
        return [name for unit in self.units if unit.split.seed == first for name in unit.split.test]

    def members(self, case: str) -> tuple[Unit, ...]:
        """The units that were tested on a case: one of each seed."""
        return tuple(unit for unit in self.units if case in unit.split.test)


def find_ensembles(units: Sequence[Unit]) -> list[Ensemble]:
    """One for each amount of training data and start that several seeds were tested on the same cases in."""
    groups: dict[tuple[str, Init], list[Unit]] = {}
    for unit in units:
        name = f"shots{unit.split.shots}" if unit.split.fold is None else "cross_validation"
        groups.setdefault((name, unit.init), []).append(unit)
    found = []
    for (name, init), of_group in groups.items():
        tested: dict[int, list[str]] = {}
        for unit in of_group:
            tested.setdefault(unit.split.seed, []).extend(unit.split.test)
        if len(tested) > 1 and len({tuple(sorted(names)) for names in tested.values()}) == 1:
            found.append(Ensemble(f"{name}_{init}", init, tuple(of_group)))
    return found


def is_tested(plan: Plan, ensemble: Ensemble) -> bool:
    """Whether a result of just these units is there."""
    file = plan.run / "ensembles" / ensemble.name / "result.json"
    return file.is_file() and json.loads(file.read_text())["members"] == [unit.name for unit in ensemble.units]


def run_ensemble(
    plan: Plan, ensemble: Ensemble, cache: MutableMapping[str, Example], on_step: Callable[[int], None] | None = None
) -> dict[str, Any]:
    """Test an ensemble of finished units and write `<run>/ensembles/<name>/`; `result.json` comes last.

    `on_step` hears how many cases are tested.
    """
    folder = plan.run / "ensembles" / ensemble.name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    rows: dict[str, dict[str, float]] = {}
    together: dict[tuple[Unit, ...], list[str]] = {}
    for name in ensemble.cases:
        together.setdefault(ensemble.members(name), []).append(name)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    for members, names in together.items():
        models = [model.to(device) for model in load_models([plan.run / "units" / u.name / "bundle" for u in members])]
        for name in names:
            example = plan.example(name, cache)
            assert example.drawn_mask is not None
            mask = predict_mask(models, [example.prepared] * len(models))
            grid, spec = example.prepared.grid.spacing, models[0].spec
            rows[name] = segmentation_metrics(mask, example.drawn_mask, spec.classes, grid, plan.recipe.tolerance)
            if on_step is not None:
                on_step(len(rows))
    cases = [plan.task[name] for name in rows]
    ids = (tuple(c.name for c in cases), tuple(c.subject for c in cases), tuple(c.dataset for c in cases))
    columns = {key: np.array([row[key] for row in rows.values()]) for key in next(iter(rows.values()))}
    predictions = scores.Predictions(plan.task.kind, *ids, columns)
    write_text(folder / "predictions.csv", scores.to_csv(predictions))
    first = ensemble.units[0].split
    result = {
        "unit": f"{ensemble.name}, {len({unit.split.seed for unit in ensemble.units})} seeds",
        "kind": plan.task.kind,
        "init": ensemble.init,
        "shots": first.shots,
        "fold": first.fold,
        "seeds": sorted({unit.split.seed for unit in ensemble.units}),
        "members": [unit.name for unit in ensemble.units],
        "n_test": len(rows),
        "steps_taken": len(rows),
        "metrics": {name: asdict(value) for name, value in scores.intervals([predictions]).items()},
    }
    write_json(folder / "result.json", result)
    return result
