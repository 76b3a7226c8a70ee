"""Processes that train one model together: which one this is, what only the first does, and what all agree on.

The processes are started from outside, by torchrun or by `srun`; a process started alone is the first of one.
"""

import atexit
import datetime
import io
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from torch import Tensor

from fomo_ssl.core.device import uses_gpu
from fomo_ssl.core.errors import ConfigError

_T = TypeVar("_T")

# Others wait this long for a process that looks at held-out scans or draws pictures.
_PATIENCE = datetime.timedelta(hours=1)

STRATEGY = "ddp"
"""Data parallelism; every parameter of an objective has a gradient in every step, which the contract tests check."""


SHARDED = "fsdp"
"""Data parallelism with weights, gradients and optimizer state shared out over the ranks."""


@dataclass(frozen=True)
class Ranks:
    """The place of this process among those of a run.

    Attributes:
        rank, world: its number from 0 on, and how many there are.
        nodes: machines.
    """

    rank: int = 0
    world: int = 1
    nodes: int = 1

    @property
    def first(self) -> bool:
        return self.rank == 0

    def on_first(self, work: Callable[[], _T]) -> _T:
        """What the first process makes of `work`, in every process; the others end where it fails.

        Raises:
            SystemExit: in the others, with 2: the first one says what is wrong.
        """
        if self.world == 1:
            return work()
        found: list[Any] = [None, False]
        failure: BaseException | None = None
        if self.first:
            try:
                found = [work(), True]
            except BaseException as error:
                failure = error
        dist.broadcast_object_list(found)
        if failure is not None:
            raise failure
        if not found[1]:
            raise SystemExit(2)
        result: _T = found[0]
        return result

    def means(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Means of scalars over all processes, in one exchange; the values themselves where there is one process."""
        if self.world == 1:
            return dict(values)
        together = torch.stack([value.float() for value in values.values()])
        dist.all_reduce(together)
        return dict(zip(values, together / self.world, strict=True))

    def largest(self, values: Sequence[int], device: torch.device) -> list[int]:
        """The largest of each of a few numbers over all processes."""
        if self.world == 1:
            return list(values)
        together = torch.tensor(values, device=device)
        dist.all_reduce(together, dist.ReduceOp.MAX)
        return [int(value) for value in together]

    def collect(self, value: Any) -> list[Any]:
        """Everybody's plain values and tensors, by rank."""
        if self.world == 1:
            return [value]
        # As a file that loads without unpickling code; the exchange's own pickling refuses tensors.
        own = io.BytesIO()
        torch.save(value, own)
        found: list[Any] = [None] * self.world
        dist.all_gather_object(found, own.getvalue())
        return [torch.load(io.BytesIO(data), weights_only=True) for data in found]


ALONE = Ranks()


def full(value: Tensor) -> Tensor:
    """All of a tensor that is shared out over the ranks, in every rank, which all call; others as they are."""
    if not hasattr(value, "full_tensor"):
        return value
    found: Tensor = value.full_tensor()
    return found


def cluster_environment() -> ClusterEnvironment:
    """How this process was started, in Lightning's words.

    Raises:
        ConfigError: in a job of several tasks, but not by srun, or with a number of tasks for all nodes together.
    """
    if TorchElasticEnvironment.detect():
        return TorchElasticEnvironment()
    if SLURMEnvironment.detect() and (tasks := int(os.environ["SLURM_NTASKS"])) > 1:
        if "SLURM_STEP_NUM_TASKS" not in os.environ:
            # The others would be waited for in vain: a batch script runs once, whatever its number of tasks.
            what = f"the job has {tasks} tasks, but srun did not start this process"
            raise ConfigError(what, way_out="Give srun python -m fomo_ssl.pretrain ..., or a job of one task")
        if "SLURM_NTASKS_PER_NODE" not in os.environ:
            way_out = "Give --ntasks-per-node to sbatch or srun"
            raise ConfigError(f"{tasks} tasks were started, but nobody said how many a node", way_out=way_out)
        # Requeueing is the launcher's: Lightning would save from inside a signal handler.
        return SLURMEnvironment(auto_requeue=False)
    return LightningEnvironment()


def join_ranks(options: Mapping[str, Any]) -> Ranks:
    """Meet the other processes of this run; the first call of a process does, later ones know already.

    Args:
        options: the trainer's; `devices` a node and `num_nodes` must fit what was started, where they are given.

    Raises:
        ConfigError: more or fewer processes were started than devices are asked for, or than this process sees GPUs.
    """
    environment = cluster_environment()
    world = environment.world_size()
    nodes = _number(_given(options, "num_nodes", _nodes(world)), "num_nodes")
    devices = _given(options, "devices", max(1, world // nodes))
    chosen = devices if isinstance(devices, list | tuple) else range(_number(devices, "devices"))
    wanted = nodes * len(chosen)
    strategy = str(options.get("strategy") or STRATEGY)
    if strategy not in ("auto", SHARDED) and not strategy.startswith("ddp"):
        way_out = "Give ddp, a variant of it, or fsdp"
        raise ConfigError(f"trainer.strategy={strategy} is not supported", way_out=way_out)
    if wanted != world:
        started = f"{'' if nodes == 1 else f'--nnodes={nodes} '}--nproc-per-node={len(chosen)}"
        way_out = f"Start with torchrun {started} -m fomo_ssl.pretrain ..., one process a device"
        raise ConfigError(f"trainer asks for {wanted} devices, but {world} processes were started", way_out=way_out)
    on_gpu = uses_gpu(options.get("accelerator"))
    if on_gpu and (world > 1 or isinstance(devices, list | tuple)):
        _take_gpu(chosen[environment.local_rank()])
    if world == 1:
        return ALONE
    if not dist.is_initialized():
        os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"] = environment.main_address, str(environment.main_port)
        backend, rank = "nccl" if on_gpu else "gloo", environment.global_rank()
        dist.init_process_group(backend, rank=rank, world_size=world, timeout=_PATIENCE)
        atexit.register(_leave)
    return Ranks(environment.global_rank(), world, nodes)


def _given(options: Mapping[str, Any], name: str, default: int) -> Any:
    return default if options.get(name) is None else options[name]


def _take_gpu(index: Any) -> None:
    """Make a GPU the current one: by it go exchanges between processes, the search of a batch size and the record."""
    seen = torch.cuda.device_count()
    if not isinstance(index, int) or index >= seen:
        # As where SLURM shows every task only the one GPU that it was given.
        what = f"this process is to train on GPU {index}, but sees {seen}, counted from 0"
        raise ConfigError(what, way_out="Show every process all GPUs of its node (--gres=gpu:N), or start fewer")
    torch.cuda.set_device(index)


def _nodes(world: int) -> int:
    local = os.environ.get("LOCAL_WORLD_SIZE")
    return world // int(local) if local else int(os.environ.get("SLURM_NNODES", 1)) if world > 1 else 1


def _number(value: Any, name: str) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return value
    raise ConfigError(f"trainer.{name}={value} is no whole number of at least 1", way_out=f"Give trainer.{name}=1")


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()
