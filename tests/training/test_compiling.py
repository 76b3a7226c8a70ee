"""Compiled blocks compute what the plain ones do, under the same names."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from fomo_ssl.core.errors import ConfigError
from fomo_ssl.encoders import create_encoder
from fomo_ssl.layers.convolution import ConvNorm, normalise
from fomo_ssl.objectives import create_objective
from fomo_ssl.training.compiling import as_compiled, compile_regions


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_norm_written_out_for_the_compiler_is_the_norm(dtype, monkeypatch):
    norm = nn.GroupNorm(6, 6)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    x = (3 + 2 * torch.randn(2, 6, 5, 4, 3, generator=torch.Generator().manual_seed(0))).to(dtype)
    exact = norm.double()(x.double())
    norm.float()
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    found = normalise(norm, x)
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), exact, atol=2e-6 if dtype == torch.float32 else 3e-2, rtol=0)


@pytest.mark.parametrize("encoder", ["vit_t_p8", "primus_t", "resenc_t", "unet_t", "mednext_s"])
def test_every_repeated_block_is_compiled_once_and_names_stay(encoder):
    objective = create_objective("mae", create_encoder(encoder))
    names = list(objective.state_dict())
    count = compile_regions(objective)
    compiled = [part for part in objective.modules() if part._compiled_call_impl is not None]
    assert len(compiled) == count > 3
    assert list(objective.state_dict()) == names
    inside = {id(part) for outer in compiled for part in outer.modules() if part is not outer}
    assert not any(id(part) in inside for part in compiled)
    convolutions = [part for part in objective.modules() if isinstance(part, nn.Conv3d)]
    assert all(part.weight.is_contiguous(memory_format=torch.channels_last_3d) for part in convolutions)


def test_a_network_without_such_blocks_is_refused():
    with pytest.raises(ConfigError, match="compile=false"):
        compile_regions(nn.Linear(2, 2))


def test_looks_of_a_plain_network_leave_the_compiler_alone():
    with as_compiled(ConvNorm(1, 2)):
        assert not torch.compiler.is_compiling()


STEP = """
import sys
import torch
from fomo_ssl.encoders import create_encoder
from fomo_ssl.layers.recompute import set_grad_checkpointing
from fomo_ssl.objectives import create_objective
from fomo_ssl.training.compiling import as_compiled, compile_regions
from tests.contracts.objective_cases import make_views

torch.manual_seed(0)
plain = create_objective("mae", create_encoder(sys.argv[1]))
compiled = create_objective("mae", create_encoder(sys.argv[1]))
compiled.load_state_dict(plain.state_dict())
set_grad_checkpointing(compiled, sys.argv[2] == "checkpointing")
compile_regions(compiled)
views = make_views(1, batch=2, size=32)
losses = [objective(views, 0).loss for objective in (plain, compiled)]
for loss in losses:
    loss.backward()
torch.testing.assert_close(losses[1], losses[0], atol=1e-5, rtol=1e-5)
for (name, one), other in zip(plain.named_parameters(), compiled.parameters(), strict=True):
    if one.grad is not None:
        torch.testing.assert_close(other.grad, one.grad, atol=1e-4, rtol=1e-3, msg=name)
with torch.no_grad(), as_compiled(compiled):
    smaller = make_views(1, batch=1, size=24)
    torch.testing.assert_close(compiled(smaller, 0).loss, plain(smaller, 0).loss, atol=1e-5, rtol=1e-5)
"""


@pytest.mark.slow
@pytest.mark.parametrize("memory", ["plain", "checkpointing"])
@pytest.mark.parametrize("encoder", ["vit_t_p8", "resenc_t"])
def test_compiled_training_step_equals_the_plain_one(encoder, memory):
    # In a process of its own: the shape checks of the tests are no code for the compiler.
    done = subprocess.run([sys.executable, "-c", STEP, encoder, memory], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
