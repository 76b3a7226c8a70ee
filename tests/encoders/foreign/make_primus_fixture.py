"""Make `fixtures/primus_*.safetensors`: a small Primus of dynamic-network-architectures, its input and its outputs.

The original builds only with a timm older than 1.0.23, which this project does not use; so its answers are kept as
files. Run in an environment of its own, once for each release, as they order tokens differently:

    pip install torch safetensors einops timm==1.0.14 dynamic-network-architectures==0.4.2   # then again with 0.4.4
    python tests/encoders/foreign/make_primus_fixture.py

Release 0.4.2 flattens the axes of an array as (second, first, third), as nnssl's pretraining network does: file
`primus_hwd`. Releases from 0.4.3 on keep their order: file `primus_whd`.
"""

import importlib.metadata
from pathlib import Path

import torch
from dynamic_network_architectures.architectures.primus import Primus
from einops import rearrange
from safetensors.torch import save_file

FOLDER = Path(__file__).parent / "fixtures"
ORDER = {"0.4.2": "h w d", "0.4.4": "w h d"}
# The swapped order and the rotary table of 0.4.2 agree on cubes only.
SIZE = {"0.4.2": ((4, 4, 4), (12, 12, 12)), "0.4.4": ((4, 4, 2), (8, 12, 8))}


def main() -> None:
    version = importlib.metadata.version("dynamic-network-architectures")
    order, (patch, size) = ORDER[version], SIZE[version]
    torch.manual_seed(0)
    net = Primus(
        1, 36, patch, 1, eva_depth=4, eva_numheads=2, input_shape=size, init_values=0.1, scale_attn_inner=True
    ).eval()
    with torch.no_grad():
        for parameter in net.parameters():  # fresh norms, biases and scales are all alike and would hide mistakes
            parameter += 0.1 * torch.randn_like(parameter)
        image = torch.randn(2, 1, *size)
        patches = net.down_projection(image)
        grid = dict(zip("whd", patches.shape[2:], strict=True))
        tokens = rearrange(patches, f"b c w h d -> b ({order}) c")
        features, _ = net.eva(tokens)
        maps = rearrange(features, f"b ({order}) c -> b c w h d", **grid)

        # Masked pretraining: half the tokens are dropped before the blocks, in training mode. Nothing else is random.
        from timm.layers import PatchDropout

        net.eva.patch_drop = PatchDropout(0.5, num_prefix_tokens=0, return_indices=True)
        net.train()
        kept_features, keep = net.eva(tokens)
    state = {k: v for k, v in net.state_dict().items() if k.startswith(("eva", "down_projection"))}
    answers = {"image": image, "maps": maps, "keep": keep, "kept_features": kept_features}
    file = FOLDER / f"primus_{order.replace(' ', '')}.safetensors"
    facts = {"version": version, "patch": str(list(patch)), "size": str(list(size)), "heads": "2"}
    save_file({k: v.contiguous() for k, v in (state | answers).items()}, file, facts)
    print(file, file.stat().st_size)


if __name__ == "__main__":
    main()
