"""Lightning's Trainer as this project uses it: our checkpoints, our loggers, no chatter."""

import contextlib
import difflib
import functools
import inspect
import logging
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch.loggers import Logger

from fomo_ssl.core.device import uses_gpu
from fomo_ssl.core.errors import ConfigError
from fomo_ssl.core.processor import multiplies_bf16, processor_name
from fomo_ssl.training.checkpoint import AtomicCheckpointIO
from fomo_ssl.training.ranks import STRATEGY, Ranks, cluster_environment

# What a run sets itself, because its promises depend on it.
_OURS = {
    "max_steps",
    "max_epochs",
    "precision",
    "logger",
    "log_every_n_steps",
    "callbacks",
    "plugins",
    "accumulate_grad_batches",
    "gradient_clip_val",
    "max_time",  # Lightning's timer stops a run without saving
}


PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")
"""Those of Lightning's names with weights of 32 bits, which input, augmentation and optimizer are made for."""


def check_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments for Lightning's Trainer, as given.

    Raises:
        ConfigError: a name that Lightning does not know, or one that the run sets itself.
    """
    known = set(inspect.signature(L.Trainer.__init__).parameters) - {"self", *_OURS}
    for name in options:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
            hint = f"Did you mean {', '.join(near)}?" if near else "See the arguments of Lightning's Trainer"
            if name == "max_time":
                hint = "Start the command with `timeout -s TERM 23h`: SIGTERM saves before it stops"
            raise ConfigError(f"trainer.{name} cannot be set", way_out=hint)
    return {name: value for name, value in options.items() if value is not None}


def choose_precision(precision: str, accelerator: str) -> str:
    """The name of a precision; of `auto`, the fastest that trains well on the device at hand.

    Raises:
        ConfigError: no such precision, or 16-mixed without a GPU, where Lightning would take bf16-mixed instead.
    """
    on_gpu = uses_gpu(accelerator)
    if precision == "auto":
        if not on_gpu:
            return "32-true"
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "16-mixed"
    if precision not in PRECISIONS:
        near = difflib.get_close_matches(precision, PRECISIONS, n=1, cutoff=0.3)
        hint = f"Did you mean {near[0]}?" if near else "Give auto"
        raise ConfigError(f"precision={precision} is none of auto, {', '.join(PRECISIONS)}", way_out=hint)
    if precision == "16-mixed" and not on_gpu:
        raise ConfigError("precision=16-mixed needs a GPU", way_out="Give bf16-mixed, or 32-true")
    if precision == "bf16-mixed" and not on_gpu and multiplies_bf16() is False:
        _say_once(
            f"precision=bf16-mixed is slower than 32-true on this processor, which has no bf16: {processor_name()}"
        )
    return precision


@functools.cache
def _say_once(line: str) -> None:
    print(line, file=sys.stderr)


def build_trainer(
    run: Path,
    *,
    steps: int,
    precision: str,
    loggers: Sequence[Logger],
    callbacks: Sequence[L.Callback],
    options: Mapping[str, Any],
    ranks: Ranks | None = None,
) -> L.Trainer:
    """A Trainer that makes one pass of `steps` steps.

    Args:
        ranks: the processes of `join_ranks`; None is this process alone, however it was started.
    """
    # The plain environment for one process, because under SLURM Lightning would save from inside a signal handler.
    environment: ClusterEnvironment = LightningEnvironment()
    place: dict[str, Any] = {"devices": 1}
    if ranks is not None and ranks.world > 1:
        environment = cluster_environment()
        place = {"devices": ranks.world // ranks.nodes, "num_nodes": ranks.nodes, "strategy": STRATEGY}
    try:
        return L.Trainer(
            **{
                "max_steps": steps,
                **place,
                "precision": precision,
                "logger": list(loggers),
                "callbacks": list(callbacks),
                "plugins": [AtomicCheckpointIO(), environment],
                "log_every_n_steps": 1,  # the recorder decides; a larger value only warns about short runs
                "default_root_dir": run,
                "enable_checkpointing": False,
                "enable_progress_bar": False,
                "enable_model_summary": False,
                "num_sanity_val_steps": 0,
                "use_distributed_sampler": False,
                **{name: value for name, value in options.items() if value is not None},
            }
        )
    except Exception as error:
        # Its MisconfigurationException, of a device that is not there, derives from Exception alone.
        raise ConfigError(f"Lightning refuses the trainer settings: {error}", way_out="See conf/trainer") from error


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without Lightning's tips and without its warnings that do not apply here."""
    chatty = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in chatty]
    for logger in chatty:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            # The number of workers is a setting; the data-wait share on the bar says whether it is too small.
            warnings.filterwarnings("ignore", message=".*does not have many workers.*")
            # A GPU may be there and not be wanted.
            warnings.filterwarnings("ignore", message="GPU available but not used.*")
            # Looks at the run's health may be turned off between two processes of it.
            warnings.filterwarnings("ignore", message="Be aware that when using `ckpt_path`.*'Health'")
            # At 16-mixed, steps whose gradients overflow are skipped, the first one too.
            warnings.filterwarnings("ignore", message=r"Detected call of `lr_scheduler\.step\(\)` before")
            # Lightning 2.6 with torch 2.14.
            warnings.filterwarnings("ignore", message=".*LeafSpec.*is deprecated")
            yield
    finally:
        for logger, level in zip(chatty, levels, strict=True):
            logger.setLevel(level)
