"""Make `fixtures/fomo25_unet.safetensors`: a small UNet of the FOMO25 baselines, its input and its outputs.

Their code is no package. Run in an environment of its own, beside the commit that was read:

    git clone https://github.com/fomo25/baseline-codebase && git -C baseline-codebase checkout d2df6d4
    pip install torch safetensors && pip install --no-deps yucca==2.2.6
    PYTHONPATH=baseline-codebase/src python tests/encoders/foreign/make_fomo25_fixture.py

It is built with the arguments of their `unet_b_lw_dec`, but narrower. Run again, every tensor is the same bit for bit
and the file is, but for the order of the two entries of its metadata, which safetensors draws anew in each process.
"""

from pathlib import Path

import torch
from models.conv_blocks.blocks import MultiLayerConvDropoutNormNonlin
from models.networks.unet import UNet
from safetensors.torch import save_file

FOLDER = Path(__file__).parent / "fixtures"
ORIGIN = (
    "fomo25/baseline-codebase d2df6d4, UNet as in unet_b_lw_dec with starting_filters=1, seed 0, "
    "weights moved by N(0, 0.1)"
)


def main() -> None:
    torch.manual_seed(0)
    decoder_block = MultiLayerConvDropoutNormNonlin.get_block_constructor(1)
    net = UNet(decoder_block=decoder_block, use_skip_connections=False, starting_filters=1).eval()
    with torch.no_grad():
        for parameter in net.parameters():  # fresh norms and biases are all alike and would hide mistakes
            parameter += 0.1 * torch.randn_like(parameter)
        image = torch.randn(1, 1, 32, 16, 16)
        maps = net.encoder(image)
    kept = {f"state.{key}": value for key, value in net.state_dict().items()}
    kept |= {"image": image, **{f"map.{level}": value for level, value in enumerate(maps)}}
    file = FOLDER / "fomo25_unet.safetensors"
    save_file({k: v.contiguous() for k, v in kept.items()}, file, {"aliases": "{}", "origin": ORIGIN})
    print(file.name, file.stat().st_size)


if __name__ == "__main__":
    main()
