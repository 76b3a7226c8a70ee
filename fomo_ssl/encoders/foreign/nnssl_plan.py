"""The adaptation plan that an nnssl checkpoint carries: which network it is, where its parts are, what it expects.

Written from nnssl 7044864 (2025-10-07), which makes it, and nnU-Net 0e49508 (2026-07-13), which reads it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fomo_ssl.core.errors import ForeignWeightsError
from fomo_ssl.core.types import Triple
from fomo_ssl.encoders.presets import PRIMUS, RESENC

CONTRACT = "zscore_volume"
PRIMUS_PATCH = 8
RECOMMENDED = [160, 160, 160]
"""Patch size for finetuning in every published plan; nnU-Net needs 24 GB for ResEnc-L at it."""

# Builders of nnssl without arguments; nnU-Net builds "NoSkipResEncL" nowhere, but its encoder is that of "ResEncL".
_FIXED = {"ResEncL": "resenc_l", "NoSkipResEncL": "resenc_l"} | {f"Primus{s.upper()}": f"primus_{s}" for s in "sbml"}
_WAY_OUT = "Only ResEnc with 3^3 kernels and strides of 2, and Primus with patches of 8^3, have a counterpart here"


@dataclass(frozen=True)
class Plan:
    """What of an adaptation plan decides how weights are read.

    Attributes:
        encoder, arguments, in_channels: for `create_encoder`, without the position table of Primus.
        stem, body: prefixes of the first layer and of the rest in the state dict.
        positions: name of the position table; None where there is none.
        patch: voxels of a training crop along the network's own axes.
        axes: for each of the network's axes the axis of the image in x y z.
        spacing: mm; None = the scan's own.
    """

    encoder: str
    arguments: dict[str, Any]
    in_channels: int
    stem: str
    body: str
    positions: str | None
    patch: Triple
    axes: Triple
    spacing: float | None

    @property
    def is_primus(self) -> bool:
        """Whether the network is a transformer."""
        return self.encoder in PRIMUS


def read_plan(content: Mapping[str, Any], where: Path) -> Plan:
    """Read `nnssl_adaptation_plan`.

    Raises:
        ForeignWeightsError: a field is missing, or the network or its input has no counterpart here.
    """
    try:
        plan = content["nnssl_adaptation_plan"]
        encoder, arguments = _architecture(plan["architecture_plans"], where)
        pretrain = plan["pretrain_plan"]
        configuration = next(iter(pretrain["configurations"].values()))  # as nnU-Net; there is but the one used
        _check_normalisation(configuration, where)
        first, second, third = pretrain["transpose_forward"]
        return Plan(
            encoder,
            arguments,
            int(plan["pretrain_num_input_channels"]),
            stem=str(plan["key_to_stem"]),
            body=str(plan["key_to_encoder"]),
            positions=plan.get("key_to_lpe"),
            patch=_triple(plan.get("pretrain_patch_size") or configuration["patch_size"]),
            axes=(2 - first, 2 - second, 2 - third),  # all its readers give z y x, which the plan may turn further
            spacing=_spacing(configuration["spacing"], where),
        )
    except (AttributeError, KeyError, TypeError, ValueError, StopIteration) as error:
        what = f"no complete nnssl adaptation plan: {type(error).__name__} {error}"
        raise ForeignWeightsError(what, where=where, way_out="Add it with nnssl's add_adaptation_plan") from error


def write_plan(
    architecture: Mapping[str, Any], *, in_channels: int, patch: Triple, spacing: float | None, dataset: str
) -> dict[str, Any]:
    """An adaptation plan of plain values.

    Args:
        architecture: what `resenc_architecture` or `primus_architecture` returned.
        in_channels: input sequences.
        patch: voxels of a training crop as z y x.
        spacing: mm; None = the scan's own.
        dataset: name of what it was trained on.
    """
    style = "noresample" if spacing is None else "onemmiso" if spacing == 1 else "median"
    median = [float(spacing or 1.0)] * 3
    resampling = "resample_data_or_seg_to_shape"
    configuration = {
        "data_identifier": f"nnsslPlans_{style}",
        "preprocessor_name": "DefaultPreprocessor",
        "spacing_style": style,
        "normalization_schemes": ["ZScoreNormalization"],
        "use_mask_for_norm": [False],
        "resampling_fn_data": resampling,
        "resampling_fn_data_kwargs": {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None},
        "resampling_fn_mask": resampling,
        "resampling_fn_mask_kwargs": {"is_seg": True, "order": 1, "order_z": 0, "force_separate_z": None},
        "spacing": None if spacing is None else median,
        "patch_size": list(patch),
    }
    return {
        "architecture_plans": architecture["architecture_plans"],
        "pretrain_plan": {
            "dataset_name": dataset,
            "plans_name": "nnsslPlans",
            "original_median_spacing_after_transp": median,
            "image_reader_writer": "NibabelIO",
            "transpose_forward": [0, 1, 2],
            "transpose_backward": [0, 1, 2],
            "experiment_planner_used": "fomo_ssl",
            "configurations": {style: configuration},
        },
        "pretrain_num_input_channels": in_channels,
        "recommended_downstream_patchsize": list(RECOMMENDED),
        **architecture["keys"],
    }


def resenc_architecture(channels: Sequence[int], blocks: Sequence[int]) -> dict[str, Any]:
    """The entries of a plan that build a residual UNet: the preset where it is that, its arguments else."""
    keys = {
        "key_to_encoder": "encoder.stages",
        "key_to_stem": "encoder.stem",
        "keys_to_in_proj": ["encoder.stem.convs.0.conv", "encoder.stem.convs.0.all_modules.0"],
        "key_to_lpe": None,  # nnU-Net's planning reads it without a default
    }
    large = RESENC["resenc_l"]
    if (tuple(channels), tuple(blocks)) == (large["channels"], large["blocks"]):
        return {"architecture_plans": _architecture_plans("ResEncL"), "keys": keys}
    stages = len(channels)
    arguments = {
        "n_stages": stages,
        "features_per_stage": list(channels),
        "conv_op": "torch.nn.modules.conv.Conv3d",
        "kernel_sizes": [[3, 3, 3]] * stages,
        "strides": [[1, 1, 1]] + [[2, 2, 2]] * (stages - 1),
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
    imported = ["conv_op", "norm_op", "nonlin"]
    return {"architecture_plans": _architecture_plans("ResidualEncoderUNet", arguments, imported), "keys": keys}


def primus_architecture(size: str) -> dict[str, Any]:
    """The entries of a plan that build Primus of size "s", "b", "m" or "l"."""
    keys = {
        "key_to_encoder": "eva",
        "key_to_stem": "down_projection",
        "keys_to_in_proj": ["down_projection.proj"],
        "key_to_lpe": "eva.pos_embed",
    }
    return {"architecture_plans": _architecture_plans(f"Primus{size.upper()}"), "keys": keys}


def _architecture_plans(
    name: str, arguments: dict[str, Any] | None = None, imported: list[str] | None = None
) -> dict[str, Any]:
    return {"arch_class_name": name, "arch_kwargs": arguments, "arch_kwargs_requiring_import": imported}


def _architecture(plans: Mapping[str, Any], where: Path) -> tuple[str, dict[str, Any]]:
    name = str(plans["arch_class_name"]).rpartition(".")[2]
    if name in _FIXED:
        return _FIXED[name], {}
    if name != "ResidualEncoderUNet":
        raise ForeignWeightsError(f"network {name} has no counterpart", where=where, way_out=_WAY_OUT)
    given = plans["arch_kwargs"]
    channels, stages = tuple(given["features_per_stage"]), given["n_stages"]
    blocks = given["n_blocks_per_stage"]
    blocks = (blocks,) * stages if isinstance(blocks, int) else tuple(blocks)
    wanted = resenc_architecture(channels, (0,) * stages)["architecture_plans"]["arch_kwargs"]
    for key in ("kernel_sizes", "strides", "conv_bias", "norm_op_kwargs", "conv_op", "norm_op", "nonlin"):
        if _plain(given[key]) != wanted[key]:
            what = f"{key} of its network is {given[key]}, not {wanted[key]}"
            raise ForeignWeightsError(what, where=where, way_out=_WAY_OUT)
    slope = (given["nonlin_kwargs"] or {}).get("negative_slope", 0.01)
    if slope != 0.01:
        raise ForeignWeightsError(f"its leaky ReLU has slope {slope}, not 0.01", where=where, way_out=_WAY_OUT)
    known = {(r["channels"], r["blocks"]): preset for preset, r in RESENC.items()}
    preset = known.get((channels, blocks))
    return (preset, {}) if preset else ("resenc_l", {"channels": channels, "blocks": blocks})


def _plain(value: Any) -> Any:
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _triple(value: Sequence[int]) -> Triple:
    x, y, z = (int(edge) for edge in value)
    return x, y, z


def _spacing(value: Sequence[int | float] | None, where: Path) -> float | None:
    if value is None:
        return None
    if len(set(value)) > 1:
        what = f"its spacing {list(value)} mm differs between axes"
        raise ForeignWeightsError(what, where=where, way_out="Only one spacing for all axes can be kept")
    return float(value[0])


def _check_normalisation(configuration: Mapping[str, Any], where: Path) -> None:
    schemes, masked = configuration["normalization_schemes"], configuration["use_mask_for_norm"]
    masked = any(masked) if isinstance(masked, list | tuple) else bool(masked)
    if set(schemes) != {"ZScoreNormalization"} or masked:
        what = f"its input is normalised by {', '.join(map(str, schemes))}{' inside a mask' if masked else ''}"
        raise ForeignWeightsError(what, where=where, way_out="Only ZScoreNormalization over the whole volume is known")
