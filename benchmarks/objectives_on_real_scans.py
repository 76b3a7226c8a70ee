"""Does every objective learn on real scans? All that `conf/objective` has x two encoder families, 1,000 samples each.

    python -m benchmarks.objectives_on_real_scans --store STORE --output FOLDER --objectives mae,contrastive,hybrid

Each run is one `python -m fomo_ssl.pretrain` on one thread, `--parallel` of them side by side. Writes `table.md` with
the mean training loss of the first and of the last tenth of the steps, and of each `--probe` task what a linear model
on the frozen embedding predicts; a row of random weights stands below each encoder. The runs keep their previews. Runs
that are finished are not repeated.
"""

import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

OBJECTIVES = (
    *("mae", "contrastive", "hybrid", "simmim", "genesis", "volume_fusion", "moco", "vicreg", "self_distillation"),
    *("voco", "alignment", "cross_sequence", "sequence_class", "denoising"),
    *("hybrid_latent_campus", "hybrid_fomo2jomo", "hybrid_anybrainer"),
)
ENCODERS = ("vit_t_p8", "resenc_t")
# A transformer's contrast gets worse with 1e-3 at batches of 8: its accuracy fell from 0.36 to 0.15.
CONTRASTS = ("contrastive", "moco", "vicreg", "self_distillation", "alignment", "hybrid_anybrainer")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--store", type=Path, required=True, help="of python -m fomo_ssl.preprocess … spacing=2")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--objectives", default=",".join(OBJECTIVES))
    parser.add_argument("--encoders", default=",".join(ENCODERS))
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--crop", type=int, default=48)
    parser.add_argument("--probe", type=Path, action="append", default=[], help="a regression or classification task")
    parser.add_argument("--parallel", type=int, default=len(os.sched_getaffinity(0)))
    options = parser.parse_args()
    encoders = options.encoders.split(",")
    jobs = [(objective, encoder) for objective in options.objectives.split(",") for encoder in encoders]
    with ThreadPoolExecutor(options.parallel) as pool:
        runs = list(pool.map(lambda job: pretrain(options, *job), jobs))
    table = to_table(runs)
    if options.probe:
        table += "\n" + probe_table(runs, options)
    (options.output / "table.md").write_text(table)
    print(table)


def pretrain(options: argparse.Namespace, objective: str, encoder: str) -> Path:
    run: Path = options.output / f"{objective}_{encoder}"
    rate = 2e-4 if objective in CONTRASTS and encoder.startswith("vit") else 1e-3
    command = [
        sys.executable, "-m", "fomo_ssl.pretrain", f"store={options.store}", f"run={run}", f"encoder={encoder}",
        f"objective={objective}", f"budget.samples={options.samples}", f"crop={options.crop}", "batch_size=8",
        f"optim.lr={rate}", "data.workers=0", "precision=bf16-mixed",
        f"preview_every={options.samples}", "resume=auto",
    ]  # fmt: skip
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
    return run


def to_table(runs: list[Path]) -> str:
    lines = [
        "| objective | encoder | parameters | loss, first tenth | last tenth | ratio | samples/s |",
        "|---" * 7 + "|",
    ]
    for run in runs:
        record = json.loads((run / "run.json").read_text())
        recipe, first, last = record["recipe"], record["loss_first"], record["loss_last"]
        encoder, millions = recipe["encoder"]["name"], record["n_parameters"] / 1e6
        cells = [
            run.name.removesuffix(f"_{encoder}"), encoder, f"{millions:.2f} M",
            f"{first:.3f}", f"{last:.3f}", f"{last / first:.2f}", f"{record['samples_per_second']:.1f}",
        ]  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def probe_table(runs: list[Path], options: argparse.Namespace) -> str:
    """Leading metric of each task with its 95 % interval over subjects."""
    import torch

    from fomo_ssl.downstream.probe import probe_bundle

    torch.set_num_threads(options.parallel)
    bundles = {run.name: run / "bundle" for run in runs}
    for encoder in options.encoders.split(","):
        first = next(run for run in runs if run.name.endswith(encoder))
        bundles[f"random weights, {encoder}"] = random_bundle(first / "bundle", options.output / f"random_{encoder}")
    lines = [
        "| bundle | " + " | ".join(task.stem for task in options.probe) + " |",
        "|---" * (1 + len(options.probe)) + "|",
    ]
    for name, bundle in bundles.items():
        found = [probe_bundle(bundle, task) for task in options.probe]
        cells = [f"{r.metric} {r.value:.2f} [{r.low:.2f}, {r.high:.2f}]" for r in found]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
        print(lines[-1], flush=True)
    return "\n".join(lines) + "\n"


def random_bundle(trained: Path, untrained: Path) -> Path:
    """What the runs of an encoder started from."""
    import torch

    from fomo_ssl.bundle import load_config, save_bundle
    from fomo_ssl.encoders import create_encoder

    config = load_config(trained)
    torch.manual_seed(0)
    save_bundle(untrained, create_encoder(config.encoder, **config.encoder_args), config)
    return untrained


if __name__ == "__main__":
    main()
