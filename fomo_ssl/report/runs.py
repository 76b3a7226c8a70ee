"""Finetuning runs as they lie on disk; reads only what finished units wrote."""

import csv
import glob
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from fomo_ssl.core.errors import RunError
from fomo_ssl.downstream.scores import Predictions, concatenate, read_csv

INITS = ("pretrained", "scratch")


@dataclass(frozen=True)
class Unit:
    """A finished unit: one split, one start.

    Attributes:
        result: contents of `result.json`.
        predictions: one row a test case.
        curve: columns of `curve.csv`; `validation` is nan where it was not looked at.
    """

    folder: Path
    result: Mapping[str, Any]
    predictions: Predictions
    curve: Mapping[str, np.ndarray]

    @property
    def init(self) -> str:
        return str(self.result["init"])


@dataclass(frozen=True)
class Ensemble:
    """The seeds of a setting as one model.

    Attributes:
        seeds: that were averaged.
        predictions: one row a test case.
    """

    seeds: Sequence[int]
    predictions: Predictions


@dataclass(frozen=True)
class Run:
    """A finetuning run.

    Attributes:
        record: contents of `run.json`.
        units: the finished ones.
        unfinished: number of planned units without a result.
        folds: of cross-validation; 0 for few-shot splits.
        splits: contents of `splits.json`.
        ensembles: those that were tested, by (shots, init); 0 shots stands for cross-validation.
    """

    path: Path
    record: Mapping[str, Any]
    units: Sequence[Unit]
    unfinished: int
    folds: int
    splits: Sequence[Mapping[str, Any]] = ()
    ensembles: Mapping[tuple[int, str], Ensemble] = field(default_factory=dict)

    @property
    def recipe(self) -> Mapping[str, Any]:
        recipe: Mapping[str, Any] = self.record.get("recipe", {})
        return recipe

    @property
    def inits(self) -> set[str]:
        """The arms that were asked for; early runs do not say, and then those that are there."""
        return set(self.record.get("inits", ())) or {unit.init for unit in self.units}

    @property
    def seen(self) -> tuple[int, int] | None:
        """Test cases whose subject the encoder was pretrained on, of how many; None where nobody knows."""
        seen: Mapping[str, Any] | None = self.record.get("seen_in_pretraining")
        test = {name for split in self.splits for name in split.get("test", ())}
        return None if seen is None else (len(test & seen["cases"].keys()), len(test))

    @property
    def trained_on(self) -> tuple[str, ...]:
        """Datasets of the training cases; empty where they have no names, and in early runs, which do not say."""
        return tuple(self.record.get("trained_on", ()))

    @property
    def bundle(self) -> Path | None:
        """The pretrained bundle, which may have moved since."""
        bundle = self.recipe.get("bundle")
        return Path(bundle) if bundle else None

    def same_but_bundle(self, other: "Run") -> bool:
        """Whether another run had the same network, training and test cases, whatever it started from.

        Splits that only one of them has, of further shots or seeds, are no difference.
        """
        splits, others = ({(s["shots"], s["seed"], s["fold"]): s for s in run.splits} for run in (self, other))
        alike = all(splits[key] == others[key] for key in splits.keys() & others.keys())
        return alike and not self.other_values(other)

    def other_values(self, other: "Run") -> list[str]:
        """Names of the values in which another run differs, whoever was trained on: of the network, training and test.

        The bundle is none of them.
        """
        mine, theirs = dict(_leaves(self.recipe)), dict(_leaves(other.recipe))
        names = sorted(mine.keys() | theirs.keys())
        return [name for name in names if name != "bundle" and mine.get(name, _NONE) != theirs.get(name, _NONE)]


_NONE = object()


def _leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Plain values under dotted names."""
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def find_runs(patterns: Sequence[str]) -> list[Run]:
    """The finetuning runs that match shell patterns (`**` goes through folders), sorted by path.

    Raises:
        RunError: nothing matches, no match is a finetuning run, or none of them has a finished unit.
    """
    asked = ", ".join(patterns)
    # Not Path.glob: a pattern may be absolute.
    found = {path for pattern in patterns for path in glob.glob(pattern, recursive=True)}  # noqa: PTH207
    paths = sorted({Path(path) for path in found})
    if not paths:
        raise RunError("nothing matches", where=asked, way_out="give runs=PATH or runs='FOLDER/*'")
    runs = [read_run(path) for path in paths if (path / "splits.json").is_file()]
    if not runs:
        what = f"none of {len(paths)} matches is a finetuning run"
        raise RunError(what, where=asked, way_out="give the run= of python -m fomo_ssl.finetune")
    if not any(run.units for run in runs):
        waiting = sum(run.unfinished for run in runs)
        raise RunError(f"none of {waiting} units is finished", where=asked, way_out="finetune with resume=auto")
    return runs


def read_run(path: Path) -> Run:
    """Read a run directory.

    Raises:
        RunError: a file in it is damaged.
    """
    record, splits = _read_json(path / "run.json"), _read_json(path / "splits.json")
    units = [read_unit(file.parent) for file in sorted(path.glob("units/*/result.json"))]
    folds = 1 + max((-1 if split["fold"] is None else split["fold"] for split in splits), default=-1)
    tested = dict(_read_ensemble(file.parent) for file in sorted(path.glob("ensembles/*/result.json")))
    run = Run(path, record, units, 0, folds, splits, tested)
    return replace(run, unfinished=len(splits) * len(run.inits) - len(units))


def read_unit(folder: Path) -> Unit:
    """Read a finished unit.

    Raises:
        RunError: a file in it is missing or damaged.
    """
    result = _read_json(folder / "result.json")
    try:
        curve = _read_curve(folder / "curve.csv")
        return Unit(folder, result, read_csv(folder / "predictions.csv", result["kind"]), curve)
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise RunError(f"damaged: {error}", where=folder, way_out="delete the unit and finetune again") from error


def _read_ensemble(folder: Path) -> tuple[tuple[int, str], Ensemble]:
    result = _read_json(folder / "result.json")
    try:
        shots = int(result["shots"]) if result["fold"] is None else 0
        table = read_csv(folder / "predictions.csv", result["kind"])
        return (shots, result["init"]), Ensemble(result["seeds"], concatenate([table]))  # by case, as those of units
    except (OSError, KeyError, ValueError, TypeError) as error:
        way_out = "delete the folder and finetune again with ensemble=true"
        raise RunError(f"damaged: {error}", where=folder, way_out=way_out) from error


def _read_curve(file: Path) -> dict[str, np.ndarray]:
    with file.open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    names = ("step", "loss", "validation")
    return {name: np.array([float(row.get(name) or "nan") for row in rows]) for name in names}


def _read_json(file: Path) -> Any:
    try:
        return json.loads(file.read_text())
    except (OSError, ValueError) as error:
        what = f"missing or damaged ({error})"
        raise RunError(what, where=file, way_out="finetune again with resume=auto") from error
