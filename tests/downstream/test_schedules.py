from dataclasses import replace

import numpy as np
import pytest
import torch

from fomo_ssl.downstream.models import TaskModel, TaskSpec
from fomo_ssl.downstream.recipe import SCHEDULES, Recipe
from fomo_ssl.downstream.schedules import factors, layer_scales, optimizer_groups
from fomo_ssl.encoders import LateFusion, create_encoder

RECIPE = Recipe(steps=100, batch_size=1, lr=1.0, warmup=0.1, freeze=0.2)
SPEC = TaskSpec("toy", "classification", ("t1",), 2, (16, 16, 16), 1.0, 2.0, True)
SMALL_VIT = {"dim": 48, "depth": 12, "heads": 2}


def curves(schedule: str) -> tuple[np.ndarray, np.ndarray]:
    of_encoder, of_head = factors(replace(RECIPE, schedule=schedule))
    return np.array([of_encoder(s) for s in range(100)]), np.array([of_head(s) for s in range(100)])


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_rates_rise_to_one_and_fall_to_zero(schedule):
    encoder, head = curves(schedule)
    for curve in [head] if schedule == "probe" else [encoder, head]:
        assert curve.max() == pytest.approx(1.0, abs=0.05)  # `warmup` lets the encoder in when the cosine has begun
        assert curve.min() >= 0.0
        assert curve[-1] < 1e-2


def test_what_moves_when():
    full, probe, warmup, sawtooth = (curves(schedule) for schedule in SCHEDULES)
    assert np.array_equal(*full)
    assert not probe[0].any()
    assert np.array_equal(probe[1], full[1])
    assert not warmup[0][:20].any()
    assert np.array_equal(warmup[0][20:], full[0][20:])
    assert np.array_equal(warmup[1], full[1])
    # The head alone up to the peak, then both from zero again: two teeth.
    encoder, head = sawtooth
    assert not encoder[:20].any()
    assert np.allclose(np.diff(head[:20]), 1 / 20)
    assert head[19] == 1.0
    assert head[20] == encoder[20] == pytest.approx(1 / 8)
    assert np.array_equal(encoder[20:], head[20:])


def test_layers_decay_from_the_last_to_the_stem():
    scales = layer_scales(create_encoder("vit_t_p8", **SMALL_VIT), 0.5)
    assert scales["norm.weight"] == scales["blocks.11.attn.qkv.weight"] == 1.0
    assert scales["blocks.10.attn.qkv.weight"] == 0.5
    assert scales["blocks.1.attn.qkv.weight"] == 0.5**10  # not that of blocks.10 or blocks.11
    assert scales["patch_embed.weight"] == scales["registers"] == 0.5**12


@pytest.mark.parametrize("name", ["vit", "unet", "fused"])
def test_every_parameter_has_one_group(name):
    vit = create_encoder("vit_t_p8", **SMALL_VIT)
    encoder = {
        "vit": lambda: vit,
        "unet": lambda: create_encoder("unet_t", channels=(4, 8)),
        "fused": lambda: LateFusion(vit, 1, learned=True),
    }[name]()
    model = TaskModel(encoder, SPEC)
    for decay, number in ((1.0, 1), (0.5, len(encoder.layer_groups()))):
        groups, schedules = optimizer_groups(model, replace(RECIPE, layer_decay=decay, encoder_lr_scale=0.5))
        assert len(groups) == len(schedules)
        held = [id(parameter) for group in groups for parameter in group["params"]]
        assert sorted(held) == sorted(id(parameter) for parameter in model.parameters())
        rates = {group["lr"] for group in groups if "lr" in group}
        assert len(rates) == number
        assert max(rates) == 0.5


def test_a_probe_leaves_the_encoder_out():
    model = TaskModel(create_encoder("unet_t", channels=(4, 8)), SPEC)
    groups, _ = optimizer_groups(model, replace(RECIPE, schedule="probe"))
    held = {id(parameter) for group in groups for parameter in group["params"]}
    assert held == {id(parameter) for parameter in model.head.parameters()}
    model(torch.randn(1, 1, 16, 16, 16)).sum().backward()
    assert all(parameter.grad is None for parameter in model.encoder.parameters())
