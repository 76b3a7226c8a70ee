"""Weights of MONAI's SwinUNETR, in and out: self-supervised ones of its encoder, and those of whole networks.

The same tensors are published under several names, all of which are read:

    module.layers1.0...  with mlp.fc1    `model_swinvit.pt` of research-contributions
    module.swin_vit..., swinViT...       what its pretraining script saved before and after August 2022
    swinViT...                           SwinUNETR itself, also finetuned, its decoder is left out
    model / encoder.layers1.0.0...       `ssl_pretrained_weights.pth`, by MONAI's own filter for it

The first and last are known by their documented names only; their files were not at hand. No file says what its input
was: the published ones saw CT mapped to 0 to 1, in crops of 96.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fomo_ssl.core.errors import ForeignWeightsError
from fomo_ssl.core.files import atomic_folder, write_json
from fomo_ssl.encoders.base import Encoder, create_encoder
from fomo_ssl.encoders.foreign.keys import bare, refuse_leftovers, tensors
from fomo_ssl.encoders.foreign.transfer import Imported, transfer
from fomo_ssl.encoders.presets import SWIN
from fomo_ssl.encoders.swin import TABLE, Swin

NAME = "swinunetr"
_PREFIX = re.compile(r"(swinViT|swin_vit|encoder)\.")
_OWN = re.compile(r"patch_embed\..+|layers\d\w*\..+")
_INDEX = "relative_position_index"
_CROP = (96, 96, 96)


def recognises(content: Mapping[str, Any]) -> bool:
    """Whether a checkpoint's dictionary has the Swin transformer of a SwinUNETR."""
    names = {_own_name(name) for name in tensors(content)}
    return {"patch_embed.proj.weight", f"layers1.0.blocks.0.attn.{TABLE}"} <= names


def read(content: Mapping[str, Any], where: Path) -> Imported:
    """The Swin encoder of a checkpoint.

    Raises:
        ForeignWeightsError: no Swin transformer in it, one of another design (SwinUNETR-V2, patches other than 2³,
            windows that are no cubes), or see `transfer`.
    """
    if not recognises(content):
        raise ForeignWeightsError("no Swin transformer of MONAI is in it", where=where)
    state = tensors(content)
    encoder = _encoder_for({_own_name(name) or name: tensor for name, tensor in state.items()}, where)

    report = transfer(encoder, state, _own_name, source=NAME, where=where)
    refuse_leftovers(report, lambda name: _own_name(name) is not None and not name.endswith(_INDEX), where)
    source = {
        "source": "SwinUNETR checkpoint",
        "citations": ["arXiv 2111.14791", "arXiv 2201.01266"],
        "note": "the file does not say how its input was normalised; published weights saw values from 0 to 1",
    }
    return Imported(encoder, report, None, _CROP, "unit_range_p99", (), source)


def write(encoder: Encoder, folder: Path, facts: Any = None) -> None:
    """Write `swin_unetr.pth`, a plain state dict under the names of MONAI's SwinUNETR, and `config.json`.

    `SwinUNETR(in_channels, out_channels, feature_size, depths, num_heads, window_size).load_state_dict(state,
    strict=False)` takes it with the arguments that `config.json` lists; the missing keys are those of the decoder.

    Args:
        encoder: a Swin.
        folder: replaced as a whole or left as it was.
        facts: not part of this format.

    Raises:
        ForeignWeightsError: the encoder is no Swin of four stages.
    """
    if not isinstance(encoder, Swin) or len(encoder.feature_info) != 5:
        what = f"SwinUNETR has no counterpart of {encoder.name}"
        raise ForeignWeightsError(what, where=folder, way_out="Only Swin encoders of four stages can be written")
    state = {f"swinViT.{name}": tensor.detach().cpu().contiguous() for name, tensor in encoder.state_dict().items()}
    for name, index in encoder.named_buffers():
        if name.endswith(_INDEX):
            state[f"swinViT.{name}"] = index.cpu()
    # Buffers that are shared are named once; MONAI has one a block.
    (index,) = {id(t): t for n, t in state.items() if n.endswith(_INDEX)}.values()
    tables = [name for name in state if name.endswith(TABLE)]
    state |= {name.replace(TABLE, _INDEX): index.clone() for name in tables}
    arguments = {
        "in_channels": encoder.in_channels,
        "feature_size": encoder.feature_info[0].channels,
        "depths": [sum(name.startswith(f"swinViT.layers{level}.") for name in tables) for level in (1, 2, 3, 4)],
        "num_heads": [state[f"swinViT.layers{level}.0.blocks.0.attn.{TABLE}"].shape[1] for level in (1, 2, 3, 4)],
        "window_size": list(encoder.window),
    }
    with atomic_folder(Path(folder)) as partial:
        torch.save(state, partial / "swin_unetr.pth")
        write_json(partial / "config.json", {"library": "fomo_ssl", "class": "SwinUNETR", "arguments": arguments})


def _own_name(name: str) -> str | None:
    """Our name of a tensor of theirs; None for what is no part of the Swin transformer."""
    name = _PREFIX.sub("", bare(name), count=1) if _PREFIX.match(bare(name)) else bare(name)
    name = re.sub(r"^(layers\d\.0)\.0\.", r"\1.", name)
    name = name.replace(".mlp.fc1.", ".mlp.linear1.").replace(".mlp.fc2.", ".mlp.linear2.")
    return name if _OWN.fullmatch(name) else None


def _encoder_for(state: Mapping[str, Tensor], where: Path) -> Encoder:
    """The Swin whose sizes these tensors have, by its preset's name where there is one."""
    stem = state["patch_embed.proj.weight"]
    if stem.shape[2:] != (2, 2, 2):
        raise ForeignWeightsError(
            f"patches of {tuple(stem.shape[2:])} voxels", where=where, way_out="Only 2x2x2 is read"
        )
    depths, heads, level = [], [], 1
    while f"layers{level}.0.blocks.0.attn.{TABLE}" in state:
        depth = 1
        while f"layers{level}.0.blocks.{depth}.attn.{TABLE}" in state:
            depth += 1
        depths.append(depth)
        heads.append(state[f"layers{level}.0.blocks.0.attn.{TABLE}"].shape[1])
        level += 1
    rows = len(state[f"layers1.0.blocks.0.attn.{TABLE}"])
    side = round(rows ** (1 / 3))
    if side**3 != rows or side % 2 == 0:
        raise ForeignWeightsError(f"a position table of {rows} rows is of no cubic window", where=where)
    found = {"dim": stem.shape[0], "depths": tuple(depths), "heads": tuple(heads), "window": (side + 1) // 2}
    name = next((name for name, preset in SWIN.items() if preset["dim"] == found["dim"]), "swin_b")
    usual = SWIN[name] | {"window": 7}
    return create_encoder(name, stem.shape[1], **{key: value for key, value in found.items() if value != usual[key]})
