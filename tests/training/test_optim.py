import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from fomo_ssl.encoders import create_encoder
from fomo_ssl.objectives import create_objective
from fomo_ssl.training.optim import OptimConfig, build_optimizer, parameter_groups, rate_factor

CONFIGS = st.builds(
    OptimConfig,
    schedule=st.sampled_from(["cosine", "constant"]),
    warmup=st.floats(0.0, 0.5),
    tail=st.floats(0.0, 0.5),
    final=st.floats(0.0, 0.5),
)


@given(CONFIGS, st.integers(1, 2000))
def test_schedules_rise_once_and_then_fall(optim: OptimConfig, steps: int) -> None:
    rates = [rate_factor(step, steps, optim) for step in range(steps)]
    assert all(0.0 < rate <= 1.0 for rate in rates) or optim.final == 0.0
    warmup = max(1, round(optim.warmup * steps))
    rising, falling = rates[:warmup], rates[warmup:]
    assert rising == sorted(rising)
    assert rising[-1] == 1.0
    assert falling == sorted(falling, reverse=True)
    assert math.isclose(rate_factor(steps, steps, optim), optim.final, abs_tol=1e-9) or warmup == steps


def test_cosine_against_its_formula() -> None:
    optim = OptimConfig(warmup=0.1, final=0.2)
    assert rate_factor(0, 100, optim) == 0.1
    assert rate_factor(55, 100, optim) == 0.2 + 0.8 * 0.5
    assert rate_factor(100, 100, optim) == 0.2


def test_constant_does_not_depend_on_the_budget_before_its_tail() -> None:
    short, long = (OptimConfig(schedule="constant", warmup=10 / steps, tail=20 / steps) for steps in (100, 1000))
    assert [rate_factor(s, 100, short) for s in range(80)] == [rate_factor(s, 1000, long) for s in range(80)]
    assert rate_factor(90, 100, short) == 0.5


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear, self.norm = nn.Linear(3, 3), nn.LayerNorm(3)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, 3))
        self.special = nn.Parameter(torch.zeros(3, 3))
        self.teacher = nn.Linear(3, 3).requires_grad_(False)


def test_what_decays() -> None:
    module = Small()
    decay, spared = parameter_groups(module, [module.special], 0.1)
    assert [id(p) for p in decay["params"]] == [id(module.linear.weight)]
    assert decay["weight_decay"] == 0.1
    assert spared["weight_decay"] == 0.0
    expected = {module.linear.bias, module.norm.weight, module.norm.bias, module.mask_token, module.special}
    assert {id(p) for p in spared["params"]} == {id(p) for p in expected}


@pytest.mark.parametrize("name", ["mae", "simmim", "self_distillation"])
def test_what_stands_for_hidden_voxels_does_not_decay(name: str) -> None:
    objective = create_objective(name, create_encoder("vit_t_p8", dim=24, depth=4, heads=2))
    learned = {id(p): n for n, p in objective.named_parameters() if n.endswith("mask_token")}
    decay, spared = parameter_groups(objective, [], 0.1)
    assert len(learned) == 1
    assert learned.keys() <= {id(p) for p in spared["params"]}
    assert not learned.keys() & {id(p) for p in decay["params"]}


def test_every_trainable_parameter_is_in_one_group() -> None:
    encoder = create_encoder("vit_t_p8", dim=24, depth=4, heads=2)
    named = dict(encoder.named_parameters())
    groups = parameter_groups(encoder, [named[name] for name in encoder.no_weight_decay()], 0.1)
    ids = [id(p) for group in groups for p in group["params"]]
    assert sorted(ids) == sorted(id(p) for p in named.values() if p.requires_grad)
    assert all(p.ndim > 1 for p in groups[0]["params"])


def test_optimizer_follows_the_schedule() -> None:
    optim = OptimConfig(lr=2.0, warmup=0.5)
    optimizer, schedule = build_optimizer(nn.Linear(1, 1), [], optim, steps=4)
    seen = []
    for _ in range(4):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert seen == [2.0 * rate_factor(step, 4, optim) for step in range(4)]
