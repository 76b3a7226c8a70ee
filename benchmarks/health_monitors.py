"""What the health monitors read on healthy and on collapsing runs: whence the alarm's thresholds are.

    python -m benchmarks.health_monitors --store STORE --output FOLDER

Short runs in one process, one after another; those that are finished are not repeated. The collapsing ones keep only
the term that pulls two views together. Writes `table.md`: each monitor before the first step, at the look where it is
lowest after a tenth of the budget, and at the end.
"""

import argparse
import json
from pathlib import Path

from fomo_ssl.config import compose
from fomo_ssl.pretrain import build_objective, build_run_config
from fomo_ssl.training.reading import read_metrics, read_record
from fomo_ssl.training.run import pretrain

HEALTHY = ("mae", "simmim", "contrastive", "moco", "vicreg", "self_distillation")
COLLAPSING = {
    "vicreg": ("objective.variance=0", "objective.covariance=0"),
    "self_distillation": ("objective.koleo=0", "objective.center_momentum=1", "objective.teacher_temperature=0.1"),
}
ENCODERS = ("vit_t_p8", "resenc_t")
MONITORS = ("health/embedding_std", "health/rankme", "health/participation_ratio", "probe/sequence_linear")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--samples", type=int, default=240)
    parser.add_argument("--crop", type=int, default=32)
    parser.add_argument("--lr", type=float, default=3e-4)
    parser.add_argument("--encoders", nargs="+", default=ENCODERS)
    options = parser.parse_args()
    jobs = [(name, settings, encoder) for encoder in options.encoders for name, settings in COLLAPSING.items()]
    jobs += [(name, (), encoder) for encoder in options.encoders for name in HEALTHY]
    lines = ["| objective | encoder | " + " | ".join(MONITORS) + " |", "|---" * (2 + len(MONITORS)) + "|"]
    for name, settings, encoder in jobs:
        rows = read_metrics(train(options, name, settings, encoder) / "metrics.csv")
        cells = [span([row for row in rows if monitor in row], monitor, options.samples / 10) for monitor in MONITORS]
        lines.append(f"| {name}{', collapsing' if settings else ''} | {encoder} | " + " | ".join(cells) + " |")
        print(lines[-1], flush=True)
    (options.output / "table.md").write_text("\n".join(lines) + "\n")


def train(options: argparse.Namespace, name: str, settings: tuple[str, ...], encoder: str) -> Path:
    run: Path = options.output / f"{name}_{encoder}{'_collapsing' if settings else ''}"
    if (run / "run.json").exists() and read_record(run)["status"] == "finished":
        return run
    overrides = [
        f"store={options.store}", f"objective={name}", f"encoder={encoder}", f"budget.samples={options.samples}",
        f"crop={options.crop}", "batch_size=8", f"optim.lr={options.lr}", "data.workers=0", "data.held_out=0.4",
        "trainer=cpu", f"preview_every={options.samples}", f"checkpoint_every={options.samples}", "health.alarm=off",
        f"health.every={options.samples // 5}", "health.crops=32", *settings,
    ]  # fmt: skip
    config = compose("pretrain", overrides)
    objective, augment = build_objective(config, seed=0)
    recipe = json.loads(json.dumps({"objective": config["objective"], "augment": config["augment"]}))
    pretrain(
        store=options.store,
        run=run,
        objective=objective,
        augment=augment,
        config=build_run_config(config),
        resume="auto",
        recipe=recipe,
    )
    return run


def span(rows: list[dict[str, float]], monitor: str, after: float) -> str:
    values = [row[monitor] for row in rows]
    lowest = min(row[monitor] for row in rows if row["samples"] >= after)
    return f"{values[0]:.2g}, {lowest:.2g}, {values[-1]:.2g}"


if __name__ == "__main__":
    main()
