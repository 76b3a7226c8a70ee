"""The yardstick for few-shot segmentation: MONAI's DynUNet from scratch on the same cases with the same metric code.

    python benchmarks/hippocampus_dynunet.py TASK --shots 1,5,20 --seeds 3 --steps 600 --output dynunet.csv

On a GPU where there is one. Plain choices: 1 mm, whole volumes of 48 x 64 x 48, batches of 2, AdamW with a cosine,
Dice + cross entropy, rotation, scaling, noise and gamma by MONAI's dictionary transforms, no flips and no deep
supervision.
"""

import argparse
import csv
import time
from pathlib import Path

import numpy as np
import torch
from monai.losses import DiceCELoss
from monai.networks.nets import DynUNet
from monai.transforms import Compose, RandAdjustContrastd, RandAffined, RandGaussianNoised
from monai.utils import set_determinism

from fomo_ssl.downstream import weighted
from fomo_ssl.downstream.cases import Example, centre_origin, load_example, window
from fomo_ssl.downstream.metrics import segmentation_metrics
from fomo_ssl.downstream.splits import Split, few_shot_splits
from fomo_ssl.downstream.statistics import bootstrap_interval
from fomo_ssl.downstream.tasks import load_task
from fomo_ssl.imaging.canonical import CanonicalSpec, from_canonical

CROP = (48, 64, 48)
FILTERS = (16, 32, 64, 128)
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def augmentation() -> Compose:
    keys = ("image", "mask")
    return Compose(
        [
            RandAffined(
                keys,
                prob=0.7,
                rotate_range=(0.25, 0.25, 0.25),
                scale_range=(0.15, 0.15, 0.15),
                translate_range=(3, 3, 3),
                mode=("bilinear", "nearest"),
                padding_mode="border",
            ),
            RandGaussianNoised("image", prob=0.3, std=0.1),
            RandAdjustContrastd("image", prob=0.3, gamma=(0.7, 1.5)),
        ]
    )


def padded(example: Example) -> dict[str, np.ndarray]:
    """Image and mask in the box of the network, with the intensity of empty space around them."""
    origin = centre_origin(example.mask.shape, CROP)
    image = window(example.prepared.image, origin, CROP, example.prepared.background)
    return {"image": image, "mask": window(example.mask, origin, CROP, 0.0)[None]}


def network(classes: int) -> DynUNet:
    strides = (1, 2, 2, 2)
    return DynUNet(
        spatial_dims=3,
        in_channels=1,
        out_channels=classes,
        kernel_size=[3] * 4,
        strides=strides,
        upsample_kernel_size=strides[1:],
        filters=FILTERS,
        deep_supervision=False,
    )


def train(
    examples: list[Example], classes: int, steps: int, batch_size: int, lr: float, seed: int, bf16: bool
) -> DynUNet:
    set_determinism(seed)
    model = network(classes).to(DEVICE)
    transform = augmentation()
    transform.set_random_state(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    loss_of = DiceCELoss(to_onehot_y=True, softmax=True, include_background=False)
    order = np.random.default_rng(seed)
    for _ in range(steps):
        chosen = [examples[i] for i in order.integers(len(examples), size=batch_size)]
        items = [transform(padded(example)) for example in chosen]
        image = torch.stack([torch.as_tensor(item["image"]).float() for item in items]).to(DEVICE)
        mask = torch.stack([torch.as_tensor(item["mask"]).long() for item in items]).to(DEVICE)
        with torch.autocast(DEVICE.type, torch.bfloat16, enabled=bf16):
            logits = model(image)
        loss = loss_of(logits.float(), mask)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return model.eval()


@torch.inference_mode()
def test(model: DynUNet, examples: list[Example], classes: int) -> list[dict[str, float]]:
    rows = []
    for example in examples:
        prepared = example.prepared
        shape = prepared.image.shape[1:]
        size = tuple(max(n, c) for n, c in zip(shape, CROP, strict=True))
        origin = centre_origin(shape, size)
        logits = model(torch.from_numpy(window(prepared.image, origin, size, prepared.background))[None].to(DEVICE))[
            0
        ].cpu()
        x, y, z = (slice(-o, -o + n) for o, n in zip(origin, shape, strict=True))
        labels = logits[:, x, y, z].argmax(0).numpy().astype(np.uint8)
        mask = from_canonical(labels, prepared.affine, prepared.grid, "nearest")
        rows.append(segmentation_metrics(mask, example.drawn_mask, classes, prepared.grid.spacing, 1.0))
    return rows


def run(split: Split, load, classes: int, args: argparse.Namespace) -> dict[str, object]:
    wall, cpu = time.perf_counter(), time.process_time()
    model = train([load(n) for n in split.train], classes, args.steps, args.batch_size, args.lr, split.seed, args.bf16)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    rows = test(model, [load(name) for name in split.test], classes)
    dice = np.array([row["dice"] for row in rows])
    interval = bootstrap_interval(lambda weights: weighted.mean(weights, dice), split.test)
    surface = float(np.mean([row["surface_dice"] for row in rows]))
    return {
        "shots": split.shots,
        "seed": split.seed,
        "n_test": len(split.test),
        "dice": round(interval.value, 4),
        "low": round(interval.low, 4),
        "high": round(interval.high, 4),
        "surface_dice": round(surface, 4),
        "parameters": sum(p.numel() for p in model.parameters()),
        "seconds_per_step": round(wall / args.steps, 4),
        "cpu_seconds_per_step": round(cpu / args.steps, 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", type=Path)
    parser.add_argument("--shots", default="1,5,20")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--batch-size", type=int, default=2)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--n-test", type=int, default=50)
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--output", type=Path, default=Path("hippocampus_dynunet.csv"))
    args = parser.parse_args()
    task = load_task(args.task)
    splits = few_shot_splits(task, [int(k) for k in args.shots.split(",")], args.seeds, n_test=args.n_test)
    cache: dict[str, Example] = {}

    def load(name: str) -> Example:
        if name not in cache:
            cache[name] = load_example(task[name], task.sequences, CanonicalSpec(1.0, crop_foreground=False))
        return cache[name]

    rows = []
    for split in splits:
        rows.append(run(split, load, task.classes, args))
        print(rows[-1], flush=True)
        with args.output.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
