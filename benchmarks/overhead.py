"""What our engine costs beside a plain Lightning + MONAI loop of the same network.

    python benchmarks/overhead.py --store STORE --task TASK [--rounds 8] [--steps 10] [--device cpu|cuda] [--only same]

Pretraining is `fomo_ssl.training.run.pretrain` with all that it does by default: metrics, TensorBoard, live bar,
checks, signals. Finetuning is the `fit` of a few-shot unit, averaged weights included. The plain side is a
`LightningModule` of ten lines in a `Trainer` without logger, bar and checkpoints: the same network, loss, optimizer,
schedule, clipping, precision and batch size.

- `same`: both sides are handed the same batches, real crops that lie in memory, and augment nothing. **This is the
  engine's overhead.**
- `none`: each with its own data path. Ours reads the store (pretraining), or cuts cases in memory (finetuning). The
  plain one has all scans in memory (MONAI's `CacheDataset`), cuts them by `RandSpatialCropd` (pretraining) or
  `RandCropByPosNegLabeld` (finetuning), and collates in a `DataLoader`. No augmentation.
- `all`: the same with augmentation. Pretraining: our preset `all` beside MONAI's transforms of the same kinds,
  probabilities and ranges (of `augmentation.py`; MONAI has no motion). Finetuning: the preset of the recipe beside
  the affine, noise and gamma of `hippocampus_dynunet.py`, which are fewer kinds.

Every side is a process of its own. They take turns of `--steps` steps, in the order A B C, C B A, A B C, so that a
change of the machine's speed meets all of them; one turn each is a round, the first is not counted, and ratios are
taken round by round. C is the plain side once more: what its ratio differs from 1 is noise. CPU time is that of a
side's main process, and freed memory stays with it. Looks, pictures and checkpoints come every 10,000 samples by
default; one of each is timed after the rounds. On a GPU, give `--workers`; what they read ahead while
another side has its turn is then for nothing.
"""

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

ARMS = ("plain", "fomo_ssl", "plain again")
CASES = [
    *(("pretrain", encoder, data) for encoder in ("vit_t_p8", "resenc_t") for data in ("same", "none", "all")),
    *(("finetune", "resenc_t", data) for data in ("same", "none", "all")),
]
ENDLESS = 10**6
"""Steps that a run believes to have before it."""

PERIOD = 10_000
"""Samples between looks, pictures and checkpoints by default."""

HELD = 8
"""Batches that lie in memory."""

FINETUNE_CROP, SHOTS = (32, 48, 32), 20
CHANNEL = None
"""Where a side's process answers."""


# --- One process for one side: it takes as many steps as each line that it reads says. ---


class Turns:
    """Batches for whoever trains; a turn begins when a line says how many, and ends when one more is asked for."""

    def __init__(self, batches: Callable[[], Iterable[Any]], *, held: bool) -> None:
        self.batches, self.held = batches, held

    def __len__(self) -> int:
        return ENDLESS

    def __iter__(self) -> Iterator[Any]:
        batches = iter(self.batches())
        if self.held:
            batches = itertools.cycle(list(itertools.islice(batches, HELD)))
        while True:
            steps = int(sys.stdin.readline() or 0)
            if not steps:
                os._exit(0)  # what comes at the end of a run is not measured
            wall, cpu = time.perf_counter(), time.process_time()
            yield from itertools.islice(batches, steps)
            synchronize()
            answer = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
            print(json.dumps(answer), file=CHANNEL, flush=True)


def synchronize() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def serve(kind: str, encoder: str, data: str, arm: str, options: argparse.Namespace) -> None:
    import torch

    global CHANNEL
    CHANNEL = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever the libraries print
    torch.set_num_threads(options.threads)
    sides = {
        ("pretrain", True): our_pretraining,
        ("pretrain", False): plain_pretraining,
        ("finetune", True): our_finetuning,
        ("finetune", False): plain_finetuning,
    }
    sides[kind, arm == "fomo_ssl"](encoder, data, options)


# --- Pretraining ---


def run_config(options: argparse.Namespace) -> Any:
    from fomo_ssl.training.callbacks.health import HealthConfig
    from fomo_ssl.training.run import RunConfig
    from fomo_ssl.training.source import DataConfig

    # The first step of the turn after the rounds.
    occasion = options.batch * (options.steps * (1 + options.rounds) + 1)
    return RunConfig(
        samples=ENDLESS * options.batch,
        batch_size=options.batch,
        crop=(options.crop,) * 3,
        data=DataConfig(workers=options.workers),
        precision=options.precision,
        checkpoint_every=occasion,
        preview_every=occasion,
        health=HealthConfig(every=occasion),
    )


def mae(encoder: str) -> Any:
    from fomo_ssl import create_encoder
    from fomo_ssl.objectives import create_objective
    from fomo_ssl.training.checkpoint import seed_everything

    seed_everything(0)
    return create_objective("mae", create_encoder(encoder))


def our_pretraining(encoder: str, data: str, options: argparse.Namespace) -> None:
    from fomo_ssl.data.augment import Augmenter
    from fomo_ssl.training import run
    from fomo_ssl.training.source import CropSource, SampleStream

    class InTurns(CropSource):
        """The run's source as it is, but that its batches come in turns."""

        def stream(self, *args: Any, **kwargs: Any) -> SampleStream:
            stream = super().stream(*args, **kwargs)
            own = stream.batches
            stream.batches = lambda first: Turns(lambda: own(first), held=data == "same")
            return stream

    run.CropSource = InTurns  # type: ignore[misc]
    objective = mae(encoder)
    with tempfile.TemporaryDirectory() as folder:
        run.pretrain(
            store=options.store,
            run=Path(folder) / "run",
            objective=objective,
            augment=Augmenter("all" if data == "all" else "none", objective.views),
            config=run_config(options),
        )


def plain_pretraining(encoder: str, data: str, options: argparse.Namespace) -> None:
    import torch

    from fomo_ssl.core.types import Views
    from fomo_ssl.data.augment import Augmenter
    from fomo_ssl.training.optim import build_optimizer
    from fomo_ssl.training.source import CropSource

    objective, config = mae(encoder), run_config(options)
    none = Augmenter("none", objective.views)

    def loss_of(batch: Any, step: int) -> Any:
        if data == "same":
            return objective(none(batch), step).loss
        keys = torch.arange(len(batch), device=batch.device) + step * len(batch)
        ones = torch.ones(len(batch), 3, device=batch.device)
        return objective(Views([batch], [batch], keys, ones, keys[None] * 0, keys.bool()), step).loss

    def optimizer() -> Any:
        named = dict(objective.encoder.named_parameters())
        no_decay = [named[name] for name in sorted(objective.encoder.no_weight_decay())]
        return build_optimizer(objective, no_decay, config.optim, config.steps)

    source = CropSource.open(options.store, config.data, objective.views, config.crop, config.seed)

    def batches() -> Iterable[Any]:
        if data == "same":
            return source.stream(options.batch, ENDLESS, 0, print).batches(0)
        return monai_crops(source, options, augmented=data == "all")

    train_plainly(objective, loss_of, optimizer, Turns(batches, held=data == "same"), config.optim.clip, options)


def monai_crops(source: Any, options: argparse.Namespace, *, augmented: bool) -> Iterable[Any]:
    """Crops (b, 1, x, y, z) of normalised scans that lie in memory."""
    import numpy as np
    from augmentation import composed, monai_kinds
    from monai.data import CacheDataset, DataLoader
    from monai.transforms import Compose, Lambdad, RandSpatialCropd, SpatialPadd, ToTensord

    index, items = source.index, []
    for row in source.split.train.tolist():
        volume = source.store.read(row).astype(np.float32) * index.scale[row] + index.offset[row]
        items.append({"image": volume[None]})
    crop = (options.crop,) * 3
    steps = [SpatialPadd("image", crop), RandSpatialCropd("image", crop, random_size=False)]
    if augmented:
        steps.append(Lambdad("image", composed(monai_kinds(options.crop))))
    steps.append(ToTensord("image", track_meta=False))
    return (
        batch["image"] for batch in endless(CacheDataset, DataLoader, items, Compose(steps), options.batch, options)
    )


# --- Finetuning ---


def unit_of(encoder: str, data: str, options: argparse.Namespace, folder: Path) -> Any:
    """Plan, unit, training examples and fresh model of the first seed of the task's few-shot harness."""
    from fomo_ssl.config import compose
    from fomo_ssl.downstream.cases import load_example
    from fomo_ssl.downstream.splits import few_shot_splits
    from fomo_ssl.downstream.tasks import load_task
    from fomo_ssl.downstream.unit import Plan, Unit, build_model
    from fomo_ssl.finetune import build_recipe
    from fomo_ssl.imaging.canonical import CanonicalSpec

    values = compose("finetune", ["task=segmentation", f"task_path='{options.task}'", "bundle=none"])
    recipe = replace(build_recipe(values), steps=ENDLESS, precision=options.precision)
    if data != "all":
        recipe = replace(recipe, augment="none", switches={})
    task = load_task(options.task)
    plan = Plan(task, folder, recipe, None, encoder, {}, CanonicalSpec(1.0, crop_foreground=False), FINETUNE_CROP)
    unit = Unit(few_shot_splits(task, [SHOTS], 1)[0], "scratch")
    examples = [load_example(task[name], task.sequences, plan.canonical) for name in unit.split.train]
    return plan, unit, examples, build_model(plan, unit, examples)


def our_finetuning(encoder: str, data: str, options: argparse.Namespace) -> None:
    from fomo_ssl.downstream import unit
    from fomo_ssl.downstream.batches import BatchStream

    class InTurns(BatchStream):
        """The unit's stream as it is, but that its batches come in turns."""

        def __iter__(self) -> Iterator[Any]:
            return iter(Turns(super().__iter__, held=data == "same"))

    unit.BatchStream = InTurns  # type: ignore[misc]
    with tempfile.TemporaryDirectory() as folder:
        plan, one, examples, model = unit_of(encoder, data, options, Path(folder))
        unit.fit(plan, one, model, examples, {})


def plain_finetuning(encoder: str, data: str, options: argparse.Namespace) -> None:
    import torch

    from fomo_ssl.downstream.batches import BatchStream
    from fomo_ssl.downstream.losses import dice_cross_entropy
    from fomo_ssl.downstream.schedules import optimizer_groups

    plan, unit, examples, model = unit_of(encoder, data, options, Path())
    recipe = plan.recipe

    def loss_of(batch: Any, step: int) -> Any:
        if data == "same":
            return dice_cross_entropy(model(batch.images), batch.masks.long())
        return dice_cross_entropy(model(batch["image"]), batch["mask"][:, 0].long())

    def optimizer() -> Any:
        groups, factors = optimizer_groups(model, recipe)
        adamw = torch.optim.AdamW(groups, lr=recipe.lr, betas=(0.9, 0.999))
        return adamw, torch.optim.lr_scheduler.LambdaLR(adamw, factors)

    def batches() -> Iterable[Any]:
        if data == "same":
            return BatchStream(examples, plan.crop, recipe.batch_size, ENDLESS, recipe.foreground, unit.split.seed)
        return monai_cases(examples, recipe.batch_size, options, augmented=data == "all")

    train_plainly(model, loss_of, optimizer, Turns(batches, held=data == "same"), recipe.clip, options)


def monai_cases(examples: list[Any], batch: int, options: argparse.Namespace, *, augmented: bool) -> Iterable[Any]:
    """Crops with masks, half of them over foreground, of cases that lie in memory."""
    from hippocampus_dynunet import augmentation
    from monai.data import CacheDataset, DataLoader
    from monai.transforms import Compose, RandCropByPosNegLabeld, SpatialPadd, ToTensord

    keys = ("image", "mask")
    items = [{"image": example.prepared.image, "mask": example.mask[None]} for example in examples]
    steps = [
        SpatialPadd(keys, FINETUNE_CROP, mode="minimum"),
        RandCropByPosNegLabeld(keys, "mask", FINETUNE_CROP, pos=1, neg=1, num_samples=1),
        *([augmentation()] if augmented else []),
        ToTensord(keys, track_meta=False),
    ]
    return endless(CacheDataset, DataLoader, items, Compose(steps), batch, options)


# --- The plain loop ---


def endless(cache: Any, loader: Any, items: list[Any], steps: Any, batch: int, options: argparse.Namespace) -> Any:
    """A loader over cached items whose epoch never ends, as those of the engine's streams do not."""
    from torch.utils.data import RandomSampler

    cached = cache(items, steps, progress=False)
    order = RandomSampler(cached, replacement=True, num_samples=ENDLESS * batch)
    return loader(cached, batch_size=batch, sampler=order, num_workers=options.workers)


def train_plainly(
    network: Any, loss_of: Callable[[Any, int], Any], optimizer: Callable[[], Any], batches: Turns, clip: float,
    options: argparse.Namespace,
) -> None:  # fmt: skip
    import lightning as L

    from fomo_ssl.training.trainer import choose_precision

    class Plain(L.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return loss_of(batch, batch_idx)

        def configure_optimizers(self) -> Any:
            own, schedule = optimizer()
            return {"optimizer": own, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    network.train()
    trainer = L.Trainer(
        max_steps=ENDLESS,
        accelerator="gpu" if options.device == "cuda" else "cpu",
        devices=1,
        precision=choose_precision(options.precision, options.device),
        gradient_clip_val=clip,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Plain(), batches)


# --- The process that lets them take turns ---


class Side:
    """A process that trains when it is told to, and how long its turns took."""

    def __init__(self, name: str, arm: str, arguments: list[str], options: argparse.Namespace, log: Path) -> None:
        self.arm, self.log = arm, log
        self.times: list[dict[str, float]] = []
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": str(options.threads),
            "PYTHONWARNINGS": "ignore",
            "TTY_COMPATIBLE": "1",  # rich draws the live bar, into the log
            # Freed memory stays with the process. What glibc gives back otherwise depends on what a process once held,
            # and whoever looked at scans before the first step would have fewer page faults in all later ones.
            "MALLOC_MMAP_MAX_": "0",
            "MALLOC_TRIM_THRESHOLD_": str(2**40),
            **({"CUDA_VISIBLE_DEVICES": ""} if options.device == "cpu" else {}),
        }
        command = [sys.executable, __file__, *arguments, "--serve", f"{name}/{arm}"]
        pipe = subprocess.PIPE
        with log.open("w") as errors:
            self.process = subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, stderr=errors, text=True)

    def turn(self, steps: int) -> dict[str, float]:
        """Seconds on the clock and of CPU for so many steps."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{steps}\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.arm} ended:\n{self.log.read_text()[-2000:]}")
        answer: dict[str, float] = json.loads(line)
        return answer

    def end(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def measure(case: tuple[str, str, str], arguments: list[str], options: argparse.Namespace, folder: Path) -> str:
    """Prints the row of a case; returns its ratios by round."""
    kind, encoder, data = case
    sides = [Side("/".join(case), arm, arguments, options, folder / f"{arm}.log") for arm in ARMS]
    once = None
    try:
        for turn in range(1 + options.rounds):
            for side in sides if turn % 2 else reversed(sides):
                taken = side.turn(options.steps)
                side.times += [taken] if turn else []
        if kind == "pretrain" and data == "same":
            once = sides[1].turn(options.steps)["wall"]
    finally:
        for side in sides:
            side.end()
    plain, ours, again = sides
    unit, scale = ("samples/s", options.batch) if kind == "pretrain" else ("steps/s", 1)
    rates = [f"{scale * options.steps / median(side, 'wall'):.2f}" for side in (plain, ours)]
    walls = ratios(ours, plain, "wall")
    more = 1e3 * statistics.median(
        (o["wall"] - p["wall"]) / options.steps for o, p in zip(ours.times, plain.times, strict=True)
    )
    shares = [share(walls), share(ratios(ours, plain, "cpu")), share(ratios(again, plain, "wall"))]
    looks = ""
    if once is not None:
        seconds = once - median(ours, "wall")
        looks = f"{seconds:.2f} s, {seconds * options.steps * options.batch / PERIOD / median(plain, 'wall'):+.1%}"
    cells = [kind, f"`{encoder}`", f"`{data}`", unit, *rates, shares[0], f"{more:+.1f}", *shares[1:], looks]
    print(f"| {' | '.join(cells)} |", flush=True)
    return f"{kind} {encoder} {data}: " + " ".join(f"{ratio - 1:+.1%}" for ratio in walls)


def median(side: Side, clock: str) -> float:
    return statistics.median(taken[clock] for taken in side.times)


def ratios(one: Side, other: Side, clock: str) -> list[float]:
    return [a[clock] / b[clock] for a, b in zip(one.times, other.times, strict=True)]


def share(found: list[float]) -> str:
    """Median and quartiles of what is more than 1."""
    low, middle, high = statistics.quantiles(found, n=4, method="inclusive") if len(found) > 1 else found * 3
    return f"{middle - 1:+.1%} [{low - 1:+.1%}, {high - 1:+.1%}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--store", type=Path, required=True, help="pretraining reads its scans; they fit into memory")
    parser.add_argument("--task", type=Path, required=True, help="a segmentation task, as tasks/hippocampus")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--steps", type=int, default=10, help="of a turn")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--only", help="comma-separated parts of pretrain/vit_t_p8/same, finetune/resenc_t/all, …")
    parser.add_argument("--crop", type=int, default=48, help="of pretraining")
    parser.add_argument("--batch", type=int, default=4, help="of pretraining")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--workers", type=int, default=0, help="loader processes of `none` and `all`")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        kind, encoder, data, arm = options.serve.split("/")
        serve(kind, encoder, data, arm, options)
        return
    parts = options.only.split(",") if options.only else [""]
    chosen = [case for case in CASES if any(part in "/".join(case) for part in parts)]
    print(
        f"{options.device}, {options.threads} threads, precision {options.precision}; pretraining: batches of "
        f"{options.batch} crops of {options.crop}³; {options.rounds} rounds of {options.steps} steps a side; medians "
        "and quartiles over rounds\n"
    )
    print(
        "| command | encoder | data | unit | plain | fomo_ssl | time more than plain | ms a step more | CPU time more "
        "| plain again | looks, pictures, checkpoint: once, share |\n" + "|---" * 11 + "|"
    )
    with tempfile.TemporaryDirectory() as folder:
        rounds = [measure(case, sys.argv[1:], options, Path(folder)) for case in chosen]
    print("\nTime more than plain, by round:\n\n- " + "\n- ".join(rounds))


if __name__ == "__main__":
    main()
