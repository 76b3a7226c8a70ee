"""Others' own networks: a small Primus, kept in `fixtures/` (see `make_primus_fixture.py`), and nnssl's ResEnc."""

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from dynamic_network_architectures.architectures.unet import ResidualEncoderUNet
from safetensors import safe_open
from torch import Tensor, nn

FOLDER = Path(__file__).parent / "fixtures"


def original(order: str) -> tuple[dict[str, Tensor], dict[str, Tensor], tuple[int, ...], tuple[int, ...]]:
    """Weights under their own names, answers, patch size and crop of `primus_<order>`."""
    with safe_open(FOLDER / f"primus_{order}.safetensors", "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no dictionary
        facts = file.metadata()
    weights = {name: value for name, value in tensors.items() if name.startswith(("eva.", "down_projection."))}
    answers = {name: value for name, value in tensors.items() if name not in weights}
    return weights, answers, tuple(json.loads(facts["patch"])), tuple(json.loads(facts["size"]))


def residual_unet(channels: Sequence[int], blocks: Sequence[int], in_channels: int = 1) -> ResidualEncoderUNet:
    """The network of nnssl's `get_res_enc_l` (7044864), of any size, with random weights."""
    stages = len(channels)
    torch.manual_seed(0)
    net = ResidualEncoderUNet(
        input_channels=in_channels,
        n_stages=stages,
        features_per_stage=list(channels),
        conv_op=nn.Conv3d,
        kernel_sizes=[[3, 3, 3]] * stages,
        strides=[[1, 1, 1]] + [[2, 2, 2]] * (stages - 1),
        n_blocks_per_stage=list(blocks),
        num_classes=1,
        n_conv_per_stage_decoder=[1] * (stages - 1),
        conv_bias=True,
        norm_op=nn.InstanceNorm3d,
        norm_op_kwargs={"eps": 1e-5, "affine": True},
        nonlin=nn.LeakyReLU,
        nonlin_kwargs={"inplace": True},
        deep_supervision=False,
    )
    with torch.no_grad():
        for parameter in net.parameters():  # fresh norms and biases are all alike and would hide mistakes
            parameter += 0.1 * torch.randn_like(parameter)
    return net.eval()
