"""Weights of nnssl, such as the OpenMind models, in; and out, for nnU-Net's finetuning.

Both hold arrays as z y x; all weights are turned, so that the encoder gives on x y z what the original gives on z y x.

nnssl pretrains Primus with its first two array axes swapped in the order of tokens (axes 1, 0, 2, slowest first), while
nnU-Net's Primus keeps their order since release 0.4.3 of dynamic-network-architectures. Import undoes the swap, so that
features are those of pretraining; export writes nnU-Net's order and says so in the file.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fomo_ssl.core.errors import ForeignWeightsError
from fomo_ssl.core.files import atomic_folder, write_json
from fomo_ssl.core.types import Triple
from fomo_ssl.encoders.base import Encoder, create_encoder
from fomo_ssl.encoders.foreign.axes import grid_to_table, inverse, table_to_grid, turn_kernel, turn_rotary
from fomo_ssl.encoders.foreign.keys import refuse_leftovers
from fomo_ssl.encoders.foreign.nnssl_plan import (
    CONTRACT,
    PRIMUS_PATCH,
    Plan,
    primus_architecture,
    read_plan,
    resenc_architecture,
    write_plan,
)
from fomo_ssl.encoders.foreign.transfer import Facts, Imported, TransferReport, transfer
from fomo_ssl.encoders.presets import PRIMUS
from fomo_ssl.encoders.primus import Primus
from fomo_ssl.encoders.resenc import ResEnc

NAME = "nnssl"
_OWN = "fomo_ssl"
"""Key of what an export adds, so that coming back loses nothing; others ignore it."""

_SWAPPED, _PLAIN = (1, 0, 2), (0, 1, 2)
_ZYX = (2, 1, 0)
_ALIAS = re.compile(r"\.all_modules\.(\d+)\.")


def recognises(content: Mapping[str, Any]) -> bool:
    """Whether a checkpoint's dictionary is one of nnssl."""
    return "network_weights" in content and "nnssl_adaptation_plan" in content


def read(content: Mapping[str, Any], where: Path) -> Imported:
    """An encoder from `checkpoint_final.pth` of nnssl.

    Raises:
        ForeignWeightsError: no weights beside its plan, or see `read_plan` and `transfer`.
    """
    plan = read_plan(content, where)
    state: Mapping[str, Tensor] | None = content.get("network_weights")
    if state is None:
        raise ForeignWeightsError("a plan, but no network_weights", where=where, way_out="Give checkpoint_final.pth")
    own: Mapping[str, Any] = content.get(_OWN, {})
    if plan.is_primus:
        encoder, report = _read_primus(plan, state, tuple(own.get("token_order", _SWAPPED)), where)
    else:
        encoder = create_encoder(plan.encoder, plan.in_channels, **plan.arguments)
        order = inverse(plan.axes)

        def change(target: str, tensor: Tensor) -> tuple[Tensor, str]:
            return (turn_kernel(tensor, order), "turned") if tensor.ndim == 5 else (tensor, "copied")

        report = transfer(encoder, state, _resenc_names(plan), source=NAME, where=where, change=change)
    refuse_leftovers(report, lambda name: name.startswith((f"{plan.body}.", f"{plan.stem}.")), where)
    pretrain = content["nnssl_adaptation_plan"]["pretrain_plan"]
    source = {
        "source": "nnssl checkpoint",
        "trainer": str(content.get("trainer_name", "unknown")),
        "dataset": str(pretrain.get("dataset_name", "unknown")),
        "citations": [text for entry in content.get("citations", []) for text in _texts(entry)],
    }
    x, y, z = own.get("crop", [plan.patch[axis] for axis in inverse(plan.axes)])
    normalisation, sequences = own.get("normalisation", CONTRACT), tuple(own.get("sequences", ()))
    grid = {key: own[key] for key in ("max_upsample", "crop_foreground") if key in own}
    return Imported(encoder, report, plan.spacing, (x, y, z), normalisation, sequences, source, **grid)


def write(encoder: Encoder, folder: Path, facts: Facts) -> None:
    """Write `checkpoint_final.pth`, `adaptation_plan.json` and `config.json`, which nnU-Net finetunes from.

    Raises:
        ForeignWeightsError: nnU-Net cannot build this encoder.
    """
    if isinstance(encoder, ResEnc):
        channels = [level.channels for level in encoder.feature_info]
        architecture = resenc_architecture(channels, [len(stage.blocks) for stage in encoder.stages])  # type: ignore[arg-type]
        weights, patch = _resenc_state(encoder), facts.crop
    elif isinstance(encoder, Primus):
        architecture = primus_architecture(_primus_size(encoder))
        weights = _primus_state(encoder)
        x, y, z = (tokens * PRIMUS_PATCH for tokens in encoder.positions.shape[2:])
        patch = (x, y, z)  # nnU-Net takes the shape of the position table from it
    else:
        what = f"nnU-Net has no counterpart of {encoder.name}"
        raise ForeignWeightsError(what, where=folder, way_out="It builds resenc_* and primus_{s,b,m,l}")
    trained_on = facts.training.get("datasets") or facts.training.get("dataset") or "unknown"
    dataset = trained_on if isinstance(trained_on, str) else ", ".join(trained_on)
    plan = write_plan(
        architecture,
        in_channels=encoder.in_channels,
        patch=(patch[2], patch[1], patch[0]),
        spacing=facts.spacing,
        dataset=dataset,
    )
    trainer, cited = "fomo_ssl", facts.training.get("citations", ())
    kept = {
        "normalisation": facts.normalisation,
        "crop": list(facts.crop),
        "sequences": list(facts.sequences),
        "max_upsample": facts.max_upsample,
        "crop_foreground": facts.crop_foreground,
    }
    checkpoint = {
        "network_weights": weights,
        "nnssl_adaptation_plan": plan,
        "init_args": {},
        "trainer_name": trainer,
        "citations": [{"type": "Pretraining", "name": dataset, "apa_citations": list(cited)}] if cited else [],
        _OWN: {"token_order": list(_PLAIN), **kept},
    }
    with atomic_folder(Path(folder)) as partial:
        torch.save(checkpoint, partial / "checkpoint_final.pth")
        write_json(partial / "adaptation_plan.json", plan | {"trainer_name": trainer})
        body = {"library": "fomo_ssl", "encoder": encoder.name, "in_channels": encoder.in_channels}
        write_json(partial / "config.json", body | kept)


def _read_primus(plan: Plan, state: Mapping[str, Tensor], flat: Triple, path: Path) -> tuple[Encoder, TransferReport]:
    patch = tuple(size // PRIMUS_PATCH for size in plan.patch)
    if flat == _SWAPPED and patch[0] != patch[1]:
        what = f"pretrained on {plan.patch} voxels, where nnssl's rotary positions do not follow its tokens"
        raise ForeignWeightsError(what, where=path, way_out="Only crops with equal first two edges can be kept exactly")
    first, second, third = (patch[axis] for axis in flat)
    grid, order = (first, second, third), _image_order(flat, plan.axes)
    table = state.get(plan.positions or "")
    if table is None or table.shape[1] != first * second * third:
        found = "is missing" if table is None else f"has {table.shape[1]} rows"
        what = f"position table {plan.positions} {found}, its crop of {plan.patch} voxels has {grid} patches"
        raise ForeignWeightsError(what, where=path, way_out="Give pretrain_patch_size in its adaptation plan")
    x, y, z = (grid[axis] for axis in order)
    encoder = create_encoder(plan.encoder, plan.in_channels, learned_grid=(x, y, z), **plan.arguments)
    heads = PRIMUS[plan.encoder]["heads"]
    kernel_order = inverse(plan.axes)

    def rename(name: str) -> str | None:
        if name == plan.positions:
            return "positions"
        if name.startswith(f"{plan.stem}.proj."):
            return name.replace(f"{plan.stem}.proj.", "patch_embed.", 1)
        return name.removeprefix(f"{plan.body}.") if name.startswith(f"{plan.body}.") else None

    def change(target: str, tensor: Tensor) -> tuple[Tensor, str]:
        if target == "positions":
            return table_to_grid(tensor, grid, order), "turned"
        if tensor.ndim == 5:
            return turn_kernel(tensor, kernel_order), "turned"
        if ".q_proj." in target or ".k_proj." in target:
            return turn_rotary(tensor, heads, order), "turned"
        return tensor, "copied"

    return encoder, transfer(encoder, state, rename, source=NAME, where=path, change=change)


def _primus_state(encoder: Primus) -> dict[str, Tensor]:
    heads = encoder.embed_dim // encoder.head_dim
    state = {}
    for name, tensor in encoder.state_dict().items():
        if name == "positions":
            state["eva.pos_embed"] = grid_to_table(tensor, _ZYX)
        elif name.startswith("patch_embed."):
            kernel = turn_kernel(tensor, _ZYX) if tensor.ndim == 5 else tensor
            state[name.replace("patch_embed.", "down_projection.proj.", 1)] = kernel
        else:
            turns = ".q_proj." in name or ".k_proj." in name
            state[f"eva.{name}"] = turn_rotary(tensor, heads, _ZYX) if turns else tensor
    return {name: tensor.detach().cpu() for name, tensor in state.items()}


def _primus_size(encoder: Primus) -> str:
    for preset, values in PRIMUS.items():
        same = encoder.embed_dim == values["dim"] and len(encoder.blocks) == values["depth"]
        same = same and encoder.head_dim * values["heads"] == encoder.embed_dim
        size = preset.removeprefix("primus_")
        if same and size in "sbml" and encoder.patch_size == (PRIMUS_PATCH,) * 3:
            return size
    what = f"nnU-Net builds no Primus {encoder.embed_dim} wide and {len(encoder.blocks)} deep on {encoder.patch_size}"
    raise ForeignWeightsError(what, way_out="It builds primus_s, _b, _m and _l with patches of 8^3 voxels")


def _resenc_names(plan: Plan) -> Callable[[str], str | None]:
    def rename(name: str) -> str | None:
        # The decoder holds the encoder too, and every unit its layers a second time.
        name = name.removeprefix("decoder.") if name.startswith("decoder.encoder.") else name
        name = _ALIAS.sub(lambda match: ".conv." if match[1] == "0" else ".norm.", name)
        if name.startswith(f"{plan.stem}.convs."):
            return name.replace(f"{plan.stem}.convs.", "stem_convs.", 1)
        return name.replace(f"{plan.body}.", "stages.", 1) if name.startswith(f"{plan.body}.") else None

    return rename


def _resenc_state(encoder: ResEnc) -> dict[str, Tensor]:
    state = {}
    for name, tensor in encoder.state_dict().items():
        tensor = turn_kernel(tensor, _ZYX) if tensor.ndim == 5 else tensor
        tensor = tensor.detach().cpu()
        foreign = f"encoder.{name.replace('stem_convs.', 'stem.convs.', 1)}"
        state[foreign] = tensor
        unit, layer, kind = foreign.rsplit(".", 2)
        state[f"{unit}.all_modules.{0 if layer == 'conv' else 1}.{kind}"] = tensor
    return state


def _image_order(flat: Triple, axes: Triple) -> Triple:
    """For each axis of the image the axis of a table that lies flat over the network's axes in the order `flat`."""
    first, second, third = (axes[axis] for axis in flat)
    return inverse((first, second, third))


def _texts(entry: Any) -> list[str]:
    values = entry.values() if isinstance(entry, dict) else []
    return [text for value in values if isinstance(value, list) for text in value if isinstance(text, str)]
