"""Does every objective learn on real scans? Three objectives x two encoder families, 1,000 samples each.

    python -m benchmarks.objectives_on_real_scans --store STORE --output FOLDER

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

# A transformer's contrast gets worse with 1e-3 at batches of 8: its accuracy fell from 0.36 to 0.15.
RATE, OTHER_RATES = 1e-3, {("contrastive", "vit_t_p8"): 2e-4}
OBJECTIVES = ("mae", "contrastive", "hybrid")
ENCODERS = ("vit_t_p8", "resenc_t")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--store", type=Path, required=True, help="of python -m fomo_ssl.preprocess … spacing=2")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--crop", type=int, default=48)
    parser.add_argument("--probe", type=Path, action="append", default=[], help="a regression or classification task")
    parser.add_argument("--parallel", type=int, default=len(os.sched_getaffinity(0)))
    options = parser.parse_args()
    jobs = [(objective, encoder) for objective in OBJECTIVES for encoder in ENCODERS]
    with ThreadPoolExecutor(options.parallel) as pool:
        runs = list(pool.map(lambda job: pretrain(options, *job), jobs))
    table = to_table([json.loads((run / "run.json").read_text()) for run in runs])
    if options.probe:
        table += "\n" + probe_table(runs, options)
    (options.output / "table.md").write_text(table)
    print(table)


def pretrain(options: argparse.Namespace, objective: str, encoder: str) -> Path:
    run: Path = options.output / f"{objective}_{encoder}"
    command = [
        sys.executable, "-m", "fomo_ssl.pretrain", f"store={options.store}", f"run={run}", f"encoder={encoder}",
        f"objective={objective}", f"budget.samples={options.samples}", f"crop={options.crop}", "batch_size=8",
        f"optim.lr={OTHER_RATES.get((objective, encoder), RATE)}", "data.workers=0", "precision=bf16-mixed",
        f"preview_every={options.samples}", "resume=auto",
    ]  # fmt: skip
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
    return run


def to_table(records: list[dict]) -> str:
    lines = [
        "| objective | encoder | parameters | loss, first tenth | last tenth | ratio | samples/s |",
        "|---" * 7 + "|",
    ]
    for record in records:
        recipe, first, last = record["recipe"], record["loss_first"], record["loss_last"]
        cells = [
            recipe["objective"]["name"], recipe["encoder"]["name"], f"{record['n_parameters'] / 1e6:.2f} M",
            f"{first:.3f}", f"{last:.3f}", f"{last / first:.2f}", f"{record['samples_per_second']:.1f}",
        ]  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def probe_table(runs: list[Path], options: argparse.Namespace) -> str:
    """Leading metric of each task with its 95 % interval over subjects."""
    import torch

    from fomo_ssl.downstream.probe import probe_bundle

    torch.set_num_threads(options.parallel)
    bundles = {run.name.replace("_", ", ", 1): run / "bundle" for run in runs}
    for encoder in ENCODERS:
        bundles[f"random weights, {encoder}"] = random_bundle(options.output, encoder)
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


def random_bundle(output: Path, encoder: str) -> Path:
    """What the runs of an encoder started from."""
    import torch

    from fomo_ssl.bundle import load_config, save_bundle
    from fomo_ssl.encoders import create_encoder

    config = load_config(output / f"mae_{encoder}" / "bundle")
    torch.manual_seed(0)
    save_bundle(output / f"random_{encoder}", create_encoder(encoder, **config.encoder_args), config)
    return output / f"random_{encoder}"


if __name__ == "__main__":
    main()
