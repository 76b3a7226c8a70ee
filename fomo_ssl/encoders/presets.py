"""Sizes of every encoder family, apart from the classes they configure; docs/reference/encoders.md has the numbers."""

from typing import Any

_VIT_SIZES: dict[str, dict[str, int]] = {
    "t": {"dim": 192, "depth": 12, "heads": 3},
    "s": {"dim": 384, "depth": 12, "heads": 6},
    "b": {"dim": 768, "depth": 12, "heads": 12},
    "l": {"dim": 1024, "depth": 24, "heads": 16},
}

VIT: dict[str, dict[str, Any]] = {
    f"vit_{size}_p{patch}": {**arguments, "patch_size": patch}
    for size, arguments in _VIT_SIZES.items()
    for patch in (8, 16)
}

# Published sizes of Primus (arXiv 2503.01835) with the position table of a 160^3 crop, as OpenMind's weights have it;
# `t` is ours, for CPUs and tests.
PRIMUS: dict[str, dict[str, Any]] = {
    "primus_t": {"dim": 192, "depth": 12, "heads": 4, "learned_grid": (12, 12, 12)},
    "primus_s": {"dim": 396, "depth": 12, "heads": 6},
    "primus_b": {"dim": 792, "depth": 12, "heads": 12},
    "primus_m": {"dim": 864, "depth": 16, "heads": 12},
    "primus_l": {"dim": 1056, "depth": 24, "heads": 16},
}

RESENC: dict[str, dict[str, Any]] = {
    "resenc_t": {"channels": (16, 32, 64, 128), "blocks": (1, 1, 2, 2)},
    "resenc_s": {"channels": (24, 48, 96, 192, 256), "blocks": (1, 2, 2, 2, 2)},
    "resenc_b": {"channels": (32, 64, 128, 256, 320), "blocks": (1, 2, 3, 4, 4)},
    # The preset of nnU-Net's ResEnc plans, which OpenMind's published weights use: 90.30 M parameters.
    "resenc_l": {"channels": (32, 64, 128, 256, 320, 320), "blocks": (1, 3, 4, 6, 6, 6)},
    # `resenc_unet_l` of asparagus (FOMO26): 345.17 M. nnU-Net's own "XL" is another patch size, not another encoder.
    "resenc_xl": {"channels": (64, 128, 256, 512, 620, 620), "blocks": (1, 3, 4, 6, 6, 6)},
}

UNET: dict[str, dict[str, Any]] = {
    "unet_t": {"channels": (16, 32, 64, 128)},
    "unet_s": {"channels": (16, 32, 64, 128, 256)},
    # The two baselines of the FOMO25 challenge (arXiv 2604.11679): 14.13 M and 56.53 M parameters.
    "unet_b": {"channels": (32, 64, 128, 256, 512)},
    "unet_xl": {"channels": (64, 128, 256, 512, 1024)},
}

_SWIN_STAGES = {"depths": (2, 2, 2, 2), "heads": (3, 6, 12, 24)}

SWIN: dict[str, dict[str, Any]] = {
    "swin_t": {"dim": 12, **_SWIN_STAGES},
    "swin_s": {"dim": 24, **_SWIN_STAGES},
    # The one that SwinUNETR's published weights use: 8.06 M parameters.
    "swin_b": {"dim": 48, **_SWIN_STAGES},
    "swin_l": {"dim": 96, **_SWIN_STAGES},
}

MEDNEXT: dict[str, dict[str, Any]] = {
    "mednext_s": {"blocks": (2, 2, 2, 2, 2), "ratios": (2, 2, 2, 2, 2)},
    "mednext_b": {"blocks": (2, 2, 2, 2, 2), "ratios": (2, 3, 4, 4, 4)},
    "mednext_m": {"blocks": (3, 4, 4, 4, 4), "ratios": (2, 3, 4, 4, 4)},
    "mednext_l": {"blocks": (3, 4, 8, 8, 8), "ratios": (3, 4, 8, 8, 8)},
}
