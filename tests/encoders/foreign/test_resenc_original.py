"""nnssl's ResEnc, built by dynamic-network-architectures and saved as nnssl does, gives the same maps through ours.

The files are written from nnssl 7044864: `AbstractTrainer.save_checkpoint`, `AdaptationPlan.serialize` and what its
`add_adaptation_plan` leaves of both in a published model. Nothing of our own exporter takes part.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from originals import residual_unet

from fomo_ssl import convert
from fomo_ssl.bundle import load_config, load_weights

RESENC_L = ((32, 64, 128, 256, 320, 320), (1, 3, 4, 6, 6, 6))
SMALL = ((4, 6, 8), (1, 2, 1))


def preset() -> dict[str, Any]:
    return {"arch_class_name": "ResEncL", "arch_kwargs": None, "arch_kwargs_requiring_import": None}


def dynamic(channels: tuple[int, ...], blocks: tuple[int, ...]) -> dict[str, Any]:
    """`DynamicArchitecturePlans` as nnssl serialises it."""
    stages = len(channels)
    arguments = {
        "n_stages": stages,
        "features_per_stage": list(channels),
        "conv_op": "torch.nn.modules.conv.Conv3d",
        "kernel_sizes": [[3, 3, 3] for _ in range(stages)],
        "strides": [[1, 1, 1], *([2, 2, 2] for _ in range(stages - 1))],
        "n_blocks_per_stage": list(blocks),
        "n_conv_per_stage_decoder": [1] * (stages - 1),
        "conv_bias": True,
        "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.modules.activation.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    }
    return {
        "arch_class_name": "ResidualEncoderUNet",
        "arch_kwargs": arguments,
        "arch_kwargs_requiring_import": ["conv_op", "norm_op", "nonlin"],
    }


def save(net: torch.nn.Module, architecture: dict[str, Any], patch: list[int], folder: Path) -> Path:
    """The three files of a published model."""
    resampling = {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None}
    configuration = {
        "data_identifier": "nnsslPlans_onemmiso",
        "preprocessor_name": "DefaultPreprocessor",
        "spacing_style": "onemmiso",
        "normalization_schemes": ["ZScoreNormalization"],
        "use_mask_for_norm": [False],
        "resampling_fn_data": "resample_data_or_seg_to_shape",
        "resampling_fn_data_kwargs": resampling,
        "resampling_fn_mask": "resample_data_or_seg_to_shape",
        "resampling_fn_mask_kwargs": resampling | {"is_seg": True, "order": 1},
        "spacing": [1, 1, 1],
        "patch_size": patch,
    }
    plan = {
        "architecture_plans": architecture,
        "pretrain_plan": {
            "dataset_name": "Dataset745_OpenMind",
            "plans_name": "nnsslPlans",
            "original_median_spacing_after_transp": [1, 1, 1],
            "image_reader_writer": "SimpleITKIO",
            "transpose_forward": [0, 1, 2],
            "transpose_backward": [0, 1, 2],
            "experiment_planner_used": "FixedResEncUNetPlanner",
            "configurations": {"onemmiso": configuration},
        },
        "pretrain_num_input_channels": 1,
        "recommended_downstream_patchsize": (160, 160, 160),
        "key_to_encoder": "encoder.stages",
        "key_to_stem": "encoder.stem",
        "keys_to_in_proj": ("encoder.stem.convs.0.conv", "encoder.stem.convs.0.all_modules.0"),
        "key_to_lpe": None,
    }
    checkpoint = {
        "network_weights": net.state_dict(),
        "init_args": {"configuration_name": "onemmiso", "fold": "all", "device": "cuda"},
        "trainer_name": "BaseMAETrainer_BS8",
        "nnssl_adaptation_plan": plan,
    }
    folder.mkdir()
    torch.save(checkpoint, folder / "checkpoint_final.pth")
    (folder / "adaptation_plan.json").write_text(json.dumps(plan | {"trainer_name": "BaseMAETrainer_BS8"}, indent=4))
    (folder / "config.json").write_text("{}")
    return folder / "checkpoint_final.pth"


@pytest.mark.parametrize(
    ("sizes", "architecture", "edge", "name", "dtype"),
    [
        (SMALL, dynamic(*SMALL), 4, "resenc_l", torch.float32),
        # In float64, since rounding grows over 26 blocks: float32 differs by 2e-5 of the largest value.
        pytest.param(RESENC_L, preset(), 32, "resenc_l", torch.float64, marks=pytest.mark.slow),
    ],
    ids=["small", "ResEnc-L"],
)
@torch.no_grad()
def test_every_map_is_the_originals(
    sizes: tuple[tuple[int, ...], tuple[int, ...]],
    architecture: dict[str, Any],
    edge: int,
    name: str,
    dtype: torch.dtype,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    net = residual_unet(*sizes)
    file = save(net, architecture, [16, 24, 32], tmp_path / "published")
    convert.main(["import", str(file), "--output", str(tmp_path / "bundle")])
    encoder, config = load_weights(tmp_path / "bundle"), load_config(tmp_path / "bundle")
    assert config.encoder == name
    assert config.encoder_args == ({} if sizes is RESENC_L else {"channels": SMALL[0], "blocks": SMALL[1]})
    assert (config.input.spacing, config.input.crop) == (1.0, (32, 24, 16))
    assert config.input.normalisation == "zscore_volume"

    # Every tensor of theirs is either in our encoder, once and again under its alias, or of the decoder.
    report = capsys.readouterr().out
    unused = {line.removeprefix("not used: ") for line in report.splitlines() if line.startswith("not used: ")}
    assert unused == {key for key in net.state_dict() if key.startswith("decoder.") and ".encoder." not in key}
    assert len(encoder.state_dict()) == len({id(parameter) for parameter in net.encoder.parameters()})

    x = torch.randn(1, 1, edge * 2, edge * 4, edge * 3, dtype=dtype)  # x y z; their arrays are z y x
    theirs = net.to(dtype).encoder(x.permute(0, 1, 4, 3, 2))
    ours = encoder.to(dtype).forward_features(x)
    assert len(ours) == len(sizes[0])
    for there, here in zip(theirs, ours, strict=True):
        torch.testing.assert_close(here, there.permute(0, 1, 4, 3, 2), atol=1e-5, rtol=1e-5)
