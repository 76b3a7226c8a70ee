"""Training of a model whose weights, gradients and optimizer state are shared out over the ranks (FSDP2).

Zhao et al. 2023 (FSDP, arXiv 2304.11277), as torch's `fully_shard` does it. Every block is gathered when its turn
comes and dropped after it. Checkpoints, looks at held-out scans and the bundle see whole tensors.
"""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import lightning as L
import torch
import torch.distributed as dist
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn

from fomo_ssl.core.errors import ConfigError
from fomo_ssl.core.types import CropBatch
from fomo_ssl.objectives.base import ObjectiveOutput
from fomo_ssl.training.compiling import regions
from fomo_ssl.training.module import PretrainModule
from fomo_ssl.training.ranks import SHARDED, Ranks, full

# FSDP looks for the loss in what the objective returns, to know when the backward pass begins.
torch.export.register_dataclass(ObjectiveOutput)


def with_shards(options: Mapping[str, Any], ranks: Ranks) -> dict[str, Any]:
    """The trainer's options with our strategy where they say `fsdp`; one process alone has nothing to share out."""
    if options.get("strategy") != SHARDED:
        return dict(options)
    return {**options, "strategy": ShardedStrategy() if ranks.world > 1 else None}


def check_sharding(options: Mapping[str, Any], precision: str, compiles: bool) -> None:
    """Refuse what does not go together with shards.

    Raises:
        ConfigError: the gradients would be scaled, or the blocks compiled.
    """
    if options.get("strategy") != SHARDED:
        return
    if precision == "16-mixed":
        way_out = "Give precision=bf16-mixed, or 32-true where the GPU has no bf16"
        raise ConfigError("trainer.strategy=fsdp scales no gradients, but precision=16-mixed does", way_out=way_out)
    if compiles:
        raise ConfigError("trainer.strategy=fsdp does not compile", way_out="Give compile=false, or strategy=ddp")


class ShardedStrategy(DDPStrategy):
    """Lightning's data parallelism with shards instead of copies; files are those of any other strategy.

    Lightning's own `ModelParallelStrategy` numbers the optimizer's state by the model's parameters and not by the
    optimizer's: one process would load the moments of other weights.
    """

    def configure_ddp(self) -> None:
        """Share out the objective: after a checkpoint's weights are restored, before the optimizer is built."""
        module = self.lightning_module
        assert isinstance(module, PretrainModule)
        module.objective = copy.deepcopy(module.whole)
        module.whole.cpu()
        shard(module.objective, self.root_device)

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Whole tensors on the first rank; every rank calls."""
        state = super().lightning_module_state_dict()
        for name, value in state.items():
            state[name] = _whole(value, self.is_global_zero)
        return state

    def optimizer_state(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """Whole tensors on the first rank; every rank calls."""
        state: dict[str, Any] = _whole(super().optimizer_state(optimizer), self.is_global_zero)
        return state

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Take this rank's share of a whole state."""
        whole = checkpoint["optimizer_states"]
        shares = [_shares(*each) for each in zip(whole, self.optimizers, strict=True)]
        super().load_optimizer_state_dict({"optimizer_states": shares})

    def teardown(self) -> None:
        """Leave the shards on their device, where they can still be gathered."""
        assert self.cluster_environment is not None
        assert self.accelerator is not None
        self.cluster_environment.teardown()
        self.precision_plugin.teardown()
        self.accelerator.teardown()
        self.checkpoint_io.teardown()


class Gathering(L.Callback):
    """Brings `module.whole` up to date in all ranks, before the first one looks at it.

    Args:
        distances: samples between looks of each kind.
    """

    def __init__(self, distances: Sequence[int]) -> None:
        self.distances = distances

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: CropBatch, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, PretrainModule)
        if any(pl_module.passed(distance) for distance in self.distances):
            gather(pl_module)


@torch.no_grad()
def gather(module: PretrainModule) -> None:
    """Copy the weights of all ranks into `module.whole`; every rank calls. Nothing where they are not shared out."""
    if module.whole is module.objective:
        return
    shares = module.objective.state_dict()
    for name, value in module.whole.state_dict().items():
        value.copy_(full(shares[name]))


def shard(model: nn.Module, device: torch.device) -> None:
    """Share out a model that lies on `device`, with the first rank's weights: every block a unit, and the rest one."""
    # Seconds that only those pay who shard.
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    for value in model.state_dict().values():
        dist.broadcast(value, 0)
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    for unit in (*regions(model), model):
        fully_shard(unit, mesh=mesh)


def _whole(state: Any, keeps: bool) -> Any:
    """A state with all of each tensor, on the CPU; one after the other, and empty in ranks that keep nothing."""
    if isinstance(state, dict):
        return {name: _whole(value, keeps) for name, value in state.items()}
    if not isinstance(state, Tensor):
        return state
    value = full(state)
    return value.cpu() if keeps else value.new_empty(0)


def _shares(whole: Mapping[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """An optimizer's state with every tensor cut as its parameter is."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    def cut(value: Any, parameter: Any) -> Any:
        if not isinstance(value, Tensor) or not isinstance(parameter, DTensor) or value.shape != parameter.shape:
            return value
        # Every rank has read the file. A copy, because a share alone would hold all of its tensor in memory.
        value, mesh = value.to(parameter.device), parameter.device_mesh
        return distribute_tensor(value, mesh, parameter.placements, src_data_rank=None).clone()

    numbers = [number for group in whole["param_groups"] for number in group["params"]]
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    states = {
        number: {name: cut(value, parameter) for name, value in whole["state"][number].items()}
        for number, parameter in zip(numbers, parameters, strict=True)
        if number in whole["state"]
    }
    return {**whole, "state": states}
