"""What precision, compilation and gradient checkpointing do to a training step, in time and memory.

    python benchmarks/step_switches.py [--encoders vit_s_p8,resenc_s] [--crop 64] [--batch-size 2] [--steps 3]

A step is forward and backward of `mae` on random crops, on a GPU where there is one. Every row is a process of its own;
CPU seconds there (one thread), else seconds; the median of `--steps`, after one more, which compiles. Memory is the
largest over what the process held when its network was built.
"""

import argparse
import contextlib
import multiprocessing
import resource
import statistics
import time
from concurrent.futures import ProcessPoolExecutor

import torch
import torch._dynamo  # loaded at the first recomputation, and not what the rows are about

from fomo_ssl import create_encoder
from fomo_ssl.core.types import Views
from fomo_ssl.layers.recompute import set_grad_checkpointing
from fomo_ssl.objectives import create_objective
from fomo_ssl.training.compiling import compile_regions

ROWS = {
    "precision=32-true": set[str](),
    "precision=bf16-mixed": {"bf16"},
    "grad_checkpointing=true": {"recompute"},
    "grad_checkpointing=true precision=bf16-mixed": {"recompute", "bf16"},
    "compile=true": {"compile"},
    "compile=true precision=bf16-mixed": {"compile", "bf16"},
    "compile=true grad_checkpointing=true precision=bf16-mixed": {"compile", "recompute", "bf16"},
}


def measure(encoder: str, switches: set[str], crop: int, batch: int, steps: int) -> tuple[float, float]:
    """Seconds a sample and MiB."""
    gpu = torch.cuda.is_available()
    device = torch.device("cuda" if gpu else "cpu")
    clock = time.perf_counter if gpu else time.process_time
    torch.set_num_threads(1)
    objective = create_objective("mae", create_encoder(encoder)).train().to(device)
    set_grad_checkpointing(objective, "recompute" in switches)
    if "compile" in switches:
        compile_regions(objective)
    x, keys = torch.randn(batch, 1, crop, crop, crop, device=device), torch.arange(batch, device=device)
    views = Views([x], [x], keys, torch.ones(batch, 3, device=device), keys[None] * 0, keys.bool())
    autocast = torch.autocast(device.type, torch.bfloat16) if "bf16" in switches else contextlib.nullcontext()
    before, times = held(gpu), []
    for _ in range(1 + steps):
        began = clock()
        objective.zero_grad()
        with autocast:
            loss = objective(views, 0).loss
        loss.backward()
        if gpu:
            torch.cuda.synchronize()
        times.append(clock() - began)
    return statistics.median(times[1:]) / batch, held(gpu) - before


def held(gpu: bool) -> float:
    """The largest memory so far, MiB."""
    peak = torch.cuda.max_memory_allocated() / 1024 if gpu else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--encoders", default="vit_s_p8,resenc_s")
    parser.add_argument("--crop", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=2)
    parser.add_argument("--steps", type=int, default=3)
    options = parser.parse_args()
    print("| encoder | switches | s a sample | of the first | MiB | of the first |\n" + "|---" * 6 + "|")
    for encoder in options.encoders.split(","):
        first: tuple[float, float] | None = None
        for words, switches in ROWS.items():
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as alone:
                arguments = (encoder, switches, options.crop, options.batch_size, options.steps)
                seconds, mib = alone.submit(measure, *arguments).result()
            first = first or (seconds, mib)
            shares = f"{seconds / first[0]:.2f} | {mib:,.0f} | {mib / first[1]:.2f}"
            print(f"| `{encoder}` | `{words}` | {seconds:.3g} | {shares} |", flush=True)


if __name__ == "__main__":
    main()
