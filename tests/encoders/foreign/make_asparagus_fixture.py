"""Make `fixtures/asparagus_*.safetensors`: small networks of gardening_tools, their input and their outputs.

Run in an environment of its own, as this project does not use the package:

    pip install torch safetensors gardening-tools==0.3.5
    python tests/encoders/foreign/make_asparagus_fixture.py

Both are built with the arguments that asparagus gives them, but narrower.
"""

import json
from pathlib import Path

import torch
from gardening_tools.modules.networks.components.blocks import MultiLayerConvDropoutNormNonlin
from gardening_tools.modules.networks.resunet import ResidualEncoderUNet
from gardening_tools.modules.networks.unet import UNet
from safetensors.torch import save_file

FOLDER = Path(__file__).parent / "fixtures"


def nets() -> dict[str, torch.nn.Module]:
    """`unet_b_lw_dec` and `resenc_unet_b` of asparagus."""
    block = MultiLayerConvDropoutNormNonlin.get_block_constructor
    unet = UNet(1, 1, encoder_basic_block=block(2), decoder_basic_block=block(1), dimensions="3D", starting_filters=1)
    resenc = ResidualEncoderUNet(
        input_channels=1,
        output_channels=1,
        dimensions="3D",
        kernel_size=3,
        stride=2,
        features_per_stage=(2, 3, 4, 4),
        n_blocks_per_stage=(1, 2, 1, 2),
        n_conv_per_stage_decoder=(1, 1, 1),
    )
    return {"unet": unet, "resenc": resenc}


def main() -> None:
    torch.manual_seed(0)
    for name, net in nets().items():
        net.eval()
        with torch.no_grad():
            for parameter in net.parameters():  # fresh norms and biases are all alike and would hide mistakes
                parameter += 0.1 * torch.randn_like(parameter)
            image = torch.randn(1, 1, 32, 16, 16)
            maps = net.encoder(image)
        kept, aliases, seen = {}, {}, {}
        for key, value in net.state_dict().items():
            first = seen.setdefault(value.data_ptr(), key)
            if first == key:
                kept[f"state.{key}"] = value
            else:
                aliases[key] = first
        kept |= {"image": image, **{f"map.{level}": value for level, value in enumerate(maps)}}
        file = FOLDER / f"asparagus_{name}.safetensors"
        save_file({k: v.contiguous() for k, v in kept.items()}, file, {"aliases": json.dumps(aliases)})
        print(file.name, file.stat().st_size)


if __name__ == "__main__":
    main()
