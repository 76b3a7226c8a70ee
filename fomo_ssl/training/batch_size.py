"""`batch_size=auto`: the largest batch that the GPU holds, found by real steps before the run begins."""

import gc
from collections.abc import Callable
from pathlib import Path

import torch

from fomo_ssl.core.device import uses_gpu
from fomo_ssl.core.errors import ConfigError
from fomo_ssl.data.augment import Augmenter
from fomo_ssl.layers.recompute import set_grad_checkpointing
from fomo_ssl.objectives.base import Objective
from fomo_ssl.objectives.gather import apart
from fomo_ssl.training.module import PretrainModule
from fomo_ssl.training.ranks import Ranks
from fomo_ssl.training.reading import read_record
from fomo_ssl.training.settings import RunConfig
from fomo_ssl.training.source import CropSource
from fomo_ssl.training.trainer import build_trainer, check_options, choose_precision, quiet

MARGIN = 0.1
"""Share of the device's memory that the steps must leave free: memory fragments, and looks and pictures take some."""

SMALLEST, LARGEST = 2, 1024
"""Crops that are tried first, because a contrast needs two, and last."""

STEPS = 2
"""AdamW makes its moments in the first step: only the second holds all that a run holds."""

Build = Callable[[], tuple[Objective, Augmenter]]


def recorded_batch_size(run: Path) -> int | None:
    """The batch size of the run, or of the lengths of one run, that is in `run`; None where there is none."""
    files = [*run.glob("run.json"), *run.glob("samples_*/run.json")]
    return int(read_record(files[0].parent)["recipe"]["batch_size"]) if files else None


def find_batch_size(build: Build, store: Path, run: Path, config: RunConfig, ranks: Ranks) -> int:
    """Samples a step of all ranks together: the micro-batch that fits on every one of them, times micro-batches.

    Args:
        build: gives a freshly built objective and its augmentation.
        store, run: of the run; nothing is written.
        config: everything else; its `batch_size` is not used. Compilation is left out: it needs less memory.
        ranks: the processes of the run, all of which call this.

    Raises:
        ConfigError: there is no GPU, or it does not even hold two crops.
    """
    if not uses_gpu(check_options(config.trainer).get("accelerator")):
        what = "batch_size=auto needs a GPU: where main memory runs out, the process is killed"
        raise ConfigError(what, way_out="Give a number, such as batch_size=8")
    return search(build, store, run, config, ranks, torch.device("cuda", torch.cuda.current_device()))


def search(build: Build, store: Path, run: Path, config: RunConfig, ranks: Ranks, device: torch.device) -> int:
    """`find_batch_size` on any device that says when its memory is full."""
    parts = ranks.world * config.accumulate
    own = largest_fitting(lambda n: fits(n, build, store, run, config, ranks), config.samples // parts)
    smallest = -ranks.largest([-own], device)[0]
    if not smallest:
        raise ConfigError(f"not even {SMALLEST} crops fit on the GPU", way_out="Give a smaller crop, or batch_size=1")
    return smallest * parts


def largest_fitting(fits: Callable[[int], bool], limit: int) -> int:
    """The largest power of two up to `limit` that fits, by doubling; 0 where `SMALLEST` does not."""
    found, size = 0, SMALLEST
    while size <= max(SMALLEST, min(limit, LARGEST)) and fits(size):
        found, size = size, 2 * size
    return found


def may_say_full(error: RuntimeError) -> bool:
    """Whether cuDNN or cuBLAS may say in words of their own that memory is full.

    cuDNN tries its algorithms in turn, passes over those that fail, as without room for a workspace, and finds none.
    """
    own = ("unable to find an engine", "CUDNN_STATUS_ALLOC_FAILED", "CUBLAS_STATUS_ALLOC_FAILED")
    return any(words in str(error) for words in own)


def fits(n: int, build: Build, store: Path, run: Path, config: RunConfig, ranks: Ranks) -> bool:
    """Whether this process can take two steps of `n` samples, as the run takes them, and leaves the margin."""
    gc.collect()
    on_gpu = torch.cuda.is_available()
    room = 0.0
    if on_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        free, total = torch.cuda.mem_get_info()
        room = free + torch.cuda.memory_allocated() - MARGIN * total
    objective, augment = build()
    set_grad_checkpointing(objective, config.grad_checkpointing)
    # Data-parallel training keeps the gradients a second time.
    twice = 4 * sum(p.numel() for p in objective.parameters() if p.requires_grad) if ranks.world > 1 else 0
    source = CropSource.open(store, config.data, objective.views, config.crop, config.seed)
    module = PretrainModule(objective, augment, config.optim, STEPS, source.name_scans)
    options = check_options(config.trainer) | {"num_nodes": 1, "strategy": "auto"}
    try:
        with apart(), quiet():
            trainer = build_trainer(
                run,
                steps=STEPS,
                precision=choose_precision(config.precision, str(options.get("accelerator", "auto"))),
                loggers=[],
                callbacks=[],
                options=options | {"devices": [torch.cuda.current_device()] if on_gpu else 1},
            )
            trainer.fit(module, source.stream(n, STEPS, 0, lambda scan: None, pin_memory=on_gpu))
    except torch.OutOfMemoryError:
        return False
    except RuntimeError as error:
        if n == SMALLEST or not may_say_full(error):
            raise  # that no algorithm suits a network at all is no matter of memory
        return False
    return not on_gpu or torch.cuda.max_memory_allocated() + twice <= room
