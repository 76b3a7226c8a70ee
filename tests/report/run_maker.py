"""Finished finetuning runs as files, written with the code that writes them, but with drawn predictions.

Pictures take longer than all else: cases of classes and numbers have them where a test asks.
"""

import csv
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fomo_ssl.downstream import scores
from fomo_ssl.downstream.metrics import METRICS
from fomo_ssl.downstream.scores import Predictions
from fomo_ssl.imaging.nifti import write
from fomo_ssl.report import standings
from fomo_ssl.synthetic.phantoms import phantom

CASES = 16


class RunMaker:
    """Writes runs; `quality` 0 to 1 of each start decides how good the drawn predictions are."""

    def __init__(self, root: Path, *, further: bool = True) -> None:
        self.root = root
        # Runs from before have neither volume errors nor pictures of the median, nor splits with names.
        self.further = further

    def __call__(
        self,
        name: str,
        kind: str,
        *,
        shots: Sequence[int] = (1, 5),
        seeds: int = 2,
        folds: int = 0,
        quality: dict[str, float] | None = None,
        datasets: Sequence[str] = ("",),
        bundle: str | None = "pre/bundle",
        encoder: str = "unet_t",
        task: str | None = None,
        skip: Sequence[str] = (),
        pictures: bool | None = None,
        trained_on: Sequence[str] | None = None,
        cases: int = CASES,
    ) -> Path:
        quality = {"pretrained": 0.85, "scratch": 0.6} if quality is None else quality
        run = self.root / name
        splits = [(s, seed, None) for s in shots for seed in range(seeds)]
        if folds:
            splits = [(CASES - CASES // folds, seed, fold) for seed in range(seeds) for fold in range(folds)]
        for shot, seed, fold in splits:
            for init, level in quality.items():
                key = f"shots{shot}_seed{seed}" if fold is None else f"fold{fold}_seed{seed}"
                unit = f"{key}_{init}"
                (run / "units" / unit).mkdir(parents=True)
                if unit in skip:
                    continue
                table = self.predictions(kind, level * (1 - 0.5 / shot), seed + 10 * shot, datasets)
                if fold is not None:
                    table = table.take(list(range(fold, CASES, folds)))
                table = table.take(list(range(min(cases, len(table)))))
                result = {
                    "unit": unit,
                    "task": task or name,
                    "kind": kind,
                    "init": init,
                    "shots": shot,
                    "seed": seed,
                    "fold": fold,
                    "train": ["x"] * shot,
                    "n_train": shot,
                    "n_test": len(table),
                    "encoder": encoder,
                    "seconds_training": 30.0,
                    "metrics": {m: {"value": table.metric(m)} for m in METRICS[kind]},
                    "pictures": self.pictures(run / "units" / unit, table)
                    if (kind == "segmentation" if pictures is None else pictures)
                    else {},
                }
                self.unit_files(run / "units" / unit, table, result, level)
        recipe = {
            "task": task or name,
            "bundle": str(self.root / bundle) if bundle else None,
            "encoder": {"name": encoder},
            "crop": [32, 32, 32],
            "training": {"steps": 100, "batch_size": 2},
            "notes": [],
        }
        record = {"status": "finished", "kind": "finetune", "recipe": recipe, "circumstances": {"torch": "2.14.1"}}
        record["inits"] = list(quality)
        if trained_on is not None:
            record["trained_on"] = list(trained_on)
        (run / "run.json").write_text(json.dumps(record))
        names = [f"sub_{i:02d}" for i in range(CASES)]
        planned = [
            {"shots": s, "seed": i, "fold": f, "train": [f"{'_'.join(trained_on or ())}_{k}" for k in range(s)]}
            | ({"test": names if f is None else names[f::folds]} if self.further else {})
            for s, i, f in splits
        ]
        (run / "splits.json").write_text(json.dumps(planned))
        return run

    def predictions(self, kind: str, level: float, seed: int, datasets: Sequence[str]) -> Predictions:
        rng, truth = np.random.default_rng(seed), np.random.default_rng(99)
        names = tuple(f"sub_{i:02d}" for i in range(CASES))
        of = tuple(datasets[i % len(datasets)] for i in range(CASES))
        if kind == "segmentation":
            base = np.clip(level + 0.08 * truth.standard_normal(CASES) + 0.03 * rng.standard_normal(CASES), 0, 1)
            columns = {"dice": base, "surface_dice": np.clip(base + 0.05, 0, 1), "dice_1": base}
            if self.further:
                columns["volume_error"] = 20.0 * (1.0 - base)
        elif kind == "classification":
            target = np.arange(CASES) % 2 * 1.0
            score = 1 / (1 + np.exp(-(4 * level * (target - 0.5) + 1.5 * rng.standard_normal(CASES))))
            columns = {"target": target, "prediction": score}
        else:
            target = 60 + 15 * truth.standard_normal(CASES) + 20 * (np.arange(CASES) % len(datasets))
            columns = {"target": target, "prediction": target + (1 - level) * 25 * rng.standard_normal(CASES)}
        return Predictions(kind, names, names, of, columns)

    def unit_files(self, folder: Path, table: Predictions, result: dict[str, Any], level: float) -> None:
        (folder / "predictions.csv").write_text(scores.to_csv(table))
        with (folder / "curve.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["step", "loss", "lr", "validation"])
            rng = np.random.default_rng(int(100 * level) + result["seed"])
            for step in range(1, 101):
                loss = 1.2 - level + 0.8 * np.exp(-step / 20) + 0.05 * rng.standard_normal()
                writer.writerow([step, loss, 1e-3, level * (1 - np.exp(-step / 30)) if step % 20 == 0 else ""])
        (folder / "result.json").write_text(json.dumps(result))

    def pictures(self, folder: Path, table: Predictions) -> dict[str, list[dict[str, Any]]]:
        order = np.argsort(table.errors)
        found: dict[str, list[dict[str, Any]]] = {}
        chosen = {"best": order[:3], "median": order[len(order) // 2 - 1 :][:3], "worst": order[::-1][:3]}
        for which, rows in chosen.items():
            if which == "median" and not self.further:
                continue
            found[which] = []
            for row in map(int, rows):
                name = table.cases[row]
                image, label = self.case(name, row)
                entry: dict[str, Any] = {"case": name, "image": str(image)}
                if table.kind == "segmentation":
                    write(folder / "masks" / f"{name}.nii.gz", np.roll(_ball(label.shape), row % 4, axis=0), np.eye(4))
                    entry |= {"dice": float(table.columns["dice"][row]), "prediction": f"masks/{name}.nii.gz"}
                    entry["label"] = str(self.root / "labels" / f"{name}.nii.gz")
                found[which].append(entry)
        return found

    def case(self, name: str, seed: int) -> tuple[Path, np.ndarray]:
        image, label = self.root / "images" / f"{name}.nii.gz", _ball((32, 32, 32))
        if not image.exists():
            write(image, phantom(seed).data, np.eye(4))
            write(self.root / "labels" / f"{name}.nii.gz", label, np.eye(4))
        return image, label


def _ball(shape: tuple[int, ...]) -> np.ndarray:
    grid = np.indices(shape) - 16.0
    inner, outer = (grid**2).sum(axis=0) < 16, (grid**2).sum(axis=0) < 64
    return (outer.astype(np.uint8) + inner).astype(np.uint8)


def few_resamples(patch: pytest.MonkeyPatch) -> None:
    """A page has dozens of intervals; no test of the report is about how smooth they are."""
    for name in ("bootstrap_interval", "paired_difference"):
        patch.setattr(scores, name, partial(getattr(scores, name), resamples=60))
    patch.setattr(standings, "resampled_weights", partial(standings.resampled_weights, resamples=200))
