"""What augmentation costs on a CPU: each kind beside MONAI's and torchio's, the preset, and its share of a step.

    python benchmarks/augmentation.py --store STORE_1MM [--crop 96] [--batch 4] [--rounds 5] [--only affine,all]

Real crops, one thread, every sample drawing the transform; the last row is the whole preset `all` with its own
probabilities, and the peers' transforms composed with the same ones. Ours takes a batch, the peers one crop after
another, as their loaders do. They take turns round by round; figures are medians. Ranges are as near to ours as the
peer's parameters allow; a dash is a kind that the peer does not have. torchio is in the extra `bench`.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fomo_ssl import create_encoder
from fomo_ssl.core.types import Views
from fomo_ssl.corpus.store import Store
from fomo_ssl.data.augment.augmenter import Augmenter
from fomo_ssl.data.augment.presets import PRESETS
from fomo_ssl.data.index import ScanIndex
from fomo_ssl.objectives import create_objective

Run = Callable[[Tensor, int], Any]
"""Augment a batch (b, 1, x, y, z) in round i."""

WARPS = ("affine", "elastic")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--crop", type=int, default=96)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--preset-rounds", type=int, default=12, help="more, as a draw is of some kinds and not of others"
    )
    parser.add_argument("--only", help="comma-separated kinds, of the first column, or `share`")
    options = parser.parse_args()
    torch.set_num_threads(1)
    crops = real_crops(options.store, options.crop, options.batch)
    ours, monai, torchio = our_kinds(), monai_kinds(options.crop), torchio_kinds(options.crop)
    chosen = options.only.split(",") if options.only else [*ours, "all", "share"]
    print(f"crops of {options.crop}^3, batches of {options.batch}, CPU ms a crop (ms on the clock)\n")
    print("| kind | fomo_ssl | MONAI | torchio | times MONAI | times torchio |\n|---|---|---|---|---|---|")
    ways = [ours, monai, torchio]
    for kind in (kind for kind in chosen if kind != "share"):
        if kind == "all":
            runs = [whole_preset(), one_by_one(composed(monai)), one_by_one(composed(torchio))]
            costs = measure(runs, crops, options.preset_rounds, statistics.mean)
        else:
            costs = measure([way.get(kind) for way in ways], crops, options.rounds, statistics.median)
        cells = ["-" if cost is None else f"{cost[0]:.1f} ({cost[1]:.1f})" for cost in costs]
        gains = [f"{cost[0] / costs[0][0]:.1f}" if cost and costs[0] else "-" for cost in costs[1:]]
        print(f"| {kind} | {' | '.join(cells + gains)} |", flush=True)
    if "share" in chosen:
        share(crops, options.rounds)


def measure(
    runs: list[Run | None], crops: Tensor, rounds: int, middle: Callable[[list[float]], float]
) -> list[tuple[float, float] | None]:
    """CPU and wall milliseconds a crop of each way; the ways take turns."""
    times: list[list[tuple[float, float]]] = [[] for _ in runs]
    for turn in range(rounds + 1):
        for run, own in zip(runs, times, strict=True):
            if run is None:
                continue
            cpu, wall = time.process_time(), time.perf_counter()
            run(crops, turn)
            if turn:
                own.append((time.process_time() - cpu, time.perf_counter() - wall))
    scale = 1e3 / len(crops)
    return [
        (middle([c for c, _ in own]) * scale, middle([w for _, w in own]) * scale) if own else None for own in times
    ]


def real_crops(path: Path, crop: int, batch: int) -> Tensor:
    """The middle of scans that are large enough, normalised."""
    store = Store.open(path)
    index = ScanIndex.of(store)
    fit = np.flatnonzero((index.shape >= crop).all(axis=1))
    rows = fit[np.linspace(0, len(fit) - 1, batch).round().astype(int)]
    found = []
    for row in rows:
        origin = tuple(int(n - crop) // 2 for n in index.shape[row])
        stored = np.asarray(store.read_crop(int(row), origin, (crop,) * 3), np.float32)
        found.append(torch.from_numpy(stored * index.scale[row] + index.offset[row])[None])
    return torch.stack(found)


# --- Ours ---


def our_kinds() -> dict[str, Run]:
    kinds: dict[str, Run] = {name: always(name) for name in PRESETS["all"]}
    kinds["affine + elastic"] = always(*WARPS)
    return kinds


def always(*names: str) -> Run:
    """An augmenter with these transforms alone, which every sample draws."""
    p: Mapping[str, Any] = {"flip": (1.0, 0.0, 0.0)}
    augmenter = Augmenter("none", **{name: {"p": p.get(name, 1.0)} for name in names})
    return lambda crops, turn: augmenter.pair(crops, None, keys(len(crops), turn))


def whole_preset() -> Run:
    augmenter = Augmenter("all")
    return lambda crops, turn: augmenter.pair(crops, None, keys(len(crops), turn))


def keys(count: int, turn: int) -> Tensor:
    return torch.arange(count) + turn * count


# --- The peers, with our ranges as far as they have them ---


def monai_kinds(crop: int) -> dict[str, Run]:
    from monai import transforms as t

    low, high = 0.85 - 1, 1.2 - 1
    turn = {"rotate_range": (np.deg2rad(15),) * 3, "scale_range": ((low, high),) * 3}
    # A Gaussian of 9 voxels is about as smooth as our splines of 24 voxels between control points.
    field = {"sigma_range": (8, 10), "magnitude_range": (50, 150), "padding_mode": "reflection"}
    # MONAI's flip and affine keep a record of themselves unless told not to: the caller does not invert anything here.
    kinds = {
        "flip": t.RandFlip(prob=1, spatial_axis=0),
        "elastic": t.Rand3DElastic(prob=1, **field),
        "affine": t.RandAffine(prob=1, padding_mode="reflection", **turn),
        "affine + elastic": t.Rand3DElastic(prob=1, **field, **turn),
        "gamma": t.RandAdjustContrast(prob=1, gamma=(0.7, 1.5)),
        "contrast": t.Compose([t.RandScaleIntensity(0.25, prob=1), t.RandShiftIntensity(0.25, prob=1)]),
        "bias_field": t.RandBiasField(prob=1, degree=3, coeff_range=(0.0, 0.2)),
        "blur": t.RandGaussianSmooth((0.4, 1.0), (0.4, 1.0), (0.4, 1.0), prob=1),
        "low_resolution": t.RandSimulateLowResolution(prob=1, zoom_range=(0.25, 0.67)),
        "gibbs": t.RandGibbsNoise(prob=1, alpha=(0.15, 0.5)),
        "noise": t.RandGaussianNoise(prob=1, std=0.2),
    }
    return {name: one_by_one(transform) for name, transform in kinds.items()}


def torchio_kinds(crop: int) -> dict[str, Run]:
    try:
        import SimpleITK
        import torchio as t
    except ImportError:
        print("torchio is not installed: its column stays empty\n")
        return {}
    SimpleITK.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    elastic = t.RandomElasticDeformation(num_control_points=7, max_displacement=0.2 * crop / 4, locked_borders=0)
    affine = t.RandomAffine(scales=(0.85, 1.2), isotropic=True, degrees=15)
    kinds = {
        "flip": t.RandomFlip(axes=0, flip_probability=1),
        "elastic": elastic,
        "affine": affine,
        "affine + elastic": t.Compose([affine, elastic]),
        "gamma": t.RandomGamma(log_gamma=(-0.36, 0.41)),
        "bias_field": t.RandomBiasField(coefficients=0.5, order=3),
        "motion": t.RandomMotion(degrees=2, translation=2, num_transforms=1),
        "blur": t.RandomBlur(std=(0.4, 1.0)),
        "low_resolution": t.RandomAnisotropy(axes=(0, 1, 2), downsampling=(1.5, 4.0)),
        "noise": t.RandomNoise(std=(0.0, 0.2)),
    }
    return {name: one_by_one(transform) for name, transform in kinds.items()}


def one_by_one(transform: Any) -> Run:
    return lambda crops, turn: [transform(crop) for crop in crops]


def composed(kinds: dict[str, Run]) -> Callable[[Tensor], Tensor]:
    """All kinds of a peer, each drawn with the probability that our preset gives it."""
    generator = np.random.default_rng(0)

    def run(crop: Tensor) -> Tensor:
        for name, values in PRESETS["all"].items():
            p = values["p"][0] if name == "flip" else values["p"]
            if name in kinds and generator.random() < p:
                (crop,) = kinds[name](crop[None], 0)
        return crop

    return run


# --- The share of a training step ---


def share(crops: Tensor, rounds: int) -> None:
    """CPU seconds of the preset `all` beside those of a step of masked autoencoding, forward and backward."""
    print("\n| encoder | precision | augmentation, CPU ms a crop | step | share |\n|---|---|---|---|---|")
    augmented = measure([whole_preset()], crops, 4 * rounds, statistics.mean)[0]
    assert augmented is not None
    for name in ("vit_t_p8", "resenc_t"):
        for precision in ("fp32", "bf16"):
            cost = measure([training_step(name, precision)], crops, rounds, statistics.median)[0]
            assert cost is not None
            part = augmented[0] / (augmented[0] + cost[0])
            print(f"| {name} | {precision} | {augmented[0]:.1f} | {cost[0]:.1f} | {part:.0%} |", flush=True)


def training_step(name: str, precision: str) -> Run:
    objective = create_objective("mae", create_encoder(name))

    def step(crops: Tensor, turn: int) -> None:
        b = len(crops)
        views = Views(
            [crops], [crops], keys(b, turn), torch.ones(b, 3), torch.zeros(1, b).long(), torch.zeros(b).bool()
        )
        objective.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            loss = objective(views, 0).loss
        loss.backward()

    return step


if __name__ == "__main__":
    main()
