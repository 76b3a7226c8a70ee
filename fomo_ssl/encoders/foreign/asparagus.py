"""UNet and ResEnc checkpoints of asparagus, the code of the FOMO26 challenge.

Facts from Sllambias/asparagus (338450b) and gardening_tools 0.3.5, which has its networks: Lightning checkpoints, all
of the network under `model.`, its encoder under `model.encoder.`. Each unit names its layers twice: `conv`, `norm_op`,
and both again in `all_modules`. Its `resenc_unet_b` is nnU-Net's ResEnc-L, our `resenc_l`; its `unet_b` and `unet_m`
are our `unet_b` and `unet_xl`. Trained on RAS scans, each with zero mean and unit variance over all voxels.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from fomo_ssl.core.errors import ForeignWeightsError
from fomo_ssl.encoders.base import Encoder, create_encoder
from fomo_ssl.encoders.foreign.fomo25 import STEM as UNET_STEM
from fomo_ssl.encoders.foreign.fomo25 import unet_for
from fomo_ssl.encoders.foreign.keys import bare, bare_tensors, refuse_leftovers, tensors, training_crop
from fomo_ssl.encoders.foreign.transfer import Imported, transfer
from fomo_ssl.encoders.presets import RESENC

NAME = "asparagus"
_RESENC_STEM = "encoder.stem.conv1.conv.weight"
_UNET_UNIT = re.compile(r"encoder\.(?:in_conv|encoder_conv(\d+))\.conv(\d+)\.(.+)")
_RESENC_UNIT = re.compile(r"encoder\.(?:stem\.conv1|(stages\.\d+\.blocks\.\d+\.(?:conv1|conv2|skip\.\d)))\.(.+)")
_LAYER = re.compile(r"(conv|norm_op|all_modules\.\d+)\.(weight|bias)")
_CROP = 160  # the default of their configuration


def recognises(content: Mapping[str, Any]) -> bool:
    """Whether a checkpoint's dictionary is that of a UNet or ResEnc of asparagus."""
    state = bare_tensors(content)
    return any(stem.replace(".conv.weight", ".norm_op.weight") in state for stem in (UNET_STEM, _RESENC_STEM))


def read(content: Mapping[str, Any], where: Path) -> Imported:
    """An encoder from a Lightning checkpoint, or a bare state dict, of asparagus.

    Raises:
        ForeignWeightsError: not of this format; a classifier's ResEnc, whose skips pool otherwise; or see `transfer`.
    """
    if not recognises(content):
        raise ForeignWeightsError(
            f"no UNet or ResEnc of asparagus: neither {UNET_STEM} nor {_RESENC_STEM} with a norm_op is in it",
            where=where,
        )
    state = bare_tensors(content)
    is_unet = UNET_STEM in state
    encoder = unet_for(state[UNET_STEM], where) if is_unet else _resenc_for(state, where)
    name_of = _unet_name if is_unet else _resenc_name

    report = transfer(encoder, tensors(content), lambda name: name_of(bare(name)), source=NAME, where=where)
    refuse_leftovers(report, lambda name: name.startswith("encoder."), where)
    source = {"source": "asparagus checkpoint", "citations": ["https://github.com/Sllambias/asparagus"]}
    return Imported(encoder, report, 1.0, training_crop(content, _CROP), "zscore_volume", (), source)


def _resenc_for(state: Mapping[str, Tensor], where: Path) -> Encoder:
    stem = state[_RESENC_STEM]
    if stem.ndim != 5:
        raise ForeignWeightsError(f"a {stem.ndim - 2}D network", where=where, way_out="Only 3D networks are read")
    if "decoder.fc.weight" in state:
        # The same tensors, but `ResidualEncoderUNetCLSREG` takes the maximum where all others average.
        what = "a classifier's ResEnc, whose skips take the maximum where ours average"
        raise ForeignWeightsError(what, where=where, way_out="Give the pretraining or segmentation checkpoint")
    blocks: list[int] = []
    channels: list[int] = []
    while f"encoder.stages.{len(blocks)}.blocks.0.conv1.conv.weight" in state:
        prefix, count = f"encoder.stages.{len(blocks)}.blocks", 1
        channels.append(state[f"{prefix}.0.conv1.conv.weight"].shape[0])
        while f"{prefix}.{count}.conv1.conv.weight" in state:
            count += 1
        blocks.append(count)
    arguments = {"channels": tuple(channels), "blocks": tuple(blocks)}
    name = next((name for name, preset in RESENC.items() if preset == arguments), None)
    return create_encoder(name or "resenc_l", stem.shape[1], **({} if name else arguments))


def _unet_name(name: str) -> str | None:
    unit = _UNET_UNIT.fullmatch(name)
    layer = _layer_name(unit[3]) if unit else None
    return f"stages.{unit[1] or 0}.{int(unit[2]) - 1}.{layer}" if unit and layer else None


def _resenc_name(name: str) -> str | None:
    unit = _RESENC_UNIT.fullmatch(name)
    layer = _layer_name(unit[2]) if unit else None
    return f"{unit[1] or 'stem_convs.0'}.{layer}" if unit and layer else None


def _layer_name(name: str) -> str | None:
    """Our name inside a unit: `all_modules` has the convolution first and, behind a dropout or not, the norm."""
    layer = _LAYER.fullmatch(name)
    if layer is None:
        return None
    part = "conv" if layer[1] in ("conv", "all_modules.0") else "norm"
    return f"{part}.{layer[2]}"
