"""Compilation of a network's repeated blocks: most of the gain of compiling it whole, in a fraction of the time."""

import contextlib
from collections.abc import Iterator

import torch
from torch import nn

from fomo_ssl.core.errors import ConfigError
from fomo_ssl.encoders.mednext import MedNeXtBlock
from fomo_ssl.encoders.resenc import ResidualBlock
from fomo_ssl.layers.convolution import ConvNorm
from fomo_ssl.layers.eva import EvaBlock
from fomo_ssl.layers.transformer import Block

REGIONS = (Block, EvaBlock, ResidualBlock, MedNeXtBlock, ConvNorm)
"""What is compiled, each on its own; inside one of them nothing else is."""

GRAPHS = 64
"""Graphs that one class may have: a residual block has one for each shape of its stages, and torch stops at 8."""


def compile_regions(module: nn.Module) -> int:
    """Compile the blocks of `module` in place, and lay its 3D convolutions out with channels last.

    Names and values of parameters stay. Shapes are taken as fixed: another crop or batch size compiles again.

    Returns:
        Number of blocks.

    Raises:
        ConfigError: the module has no block of a known kind.
    """
    from torch._dynamo import config as dynamo  # half a second that only those pay who compile

    dynamo.recompile_limit = max(dynamo.recompile_limit, GRAPHS)
    for part in module.modules():
        if isinstance(part, (nn.Conv3d, nn.ConvTranspose3d)):
            part.to(memory_format=torch.channels_last_3d)
    blocks = list(regions(module))
    if not blocks:
        raise ConfigError("compile=true, but this network has no block that is compiled", way_out="compile=false")
    for block in blocks:
        block.compile(dynamic=False)
    return len(blocks)


def regions(module: nn.Module) -> Iterator[nn.Module]:
    """The repeated blocks of a network, in order; none of them lies in another."""
    for child in module.children():
        if isinstance(child, REGIONS):
            yield child
        else:
            yield from regions(child)


def as_compiled(module: nn.Module) -> contextlib.AbstractContextManager[None]:
    """Use what is compiled of `module` and compile nothing more: for a look at it with other shapes than training's."""
    if not any(isinstance(part, REGIONS) and part._compiled_call_impl for part in module.modules()):
        return contextlib.nullcontext()
    return _stance()


@contextlib.contextmanager
def _stance() -> Iterator[None]:
    with torch.compiler.set_stance("eager_on_recompile"):
        yield
