"""One training step on a GPU under bf16 autocast: ours, plain and compiled, beside the peers, and augmentation's share.

    python benchmarks/gpu_steps.py [--only vit,resenc,augment] [--steps 8]

A step is forward, backward and fused AdamW on random crops of 128³; the median of steps timed by device events, after
three more. Size, crop, batch, hidden share, decoder and loss are equal within a case. Peers: MONAI's
`MaskedAutoEncoderViT` (float32 with TF32, because its decoder refuses bf16 autocast) and nnU-Net's ResEnc-L UNet from
dynamic-network-architectures, plain and compiled whole, as nnU-Net trains it.
"""

import argparse
import gc
import statistics
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from fomo_ssl import create_encoder
from fomo_ssl.core.types import Views
from fomo_ssl.data.augment import Augmenter
from fomo_ssl.heads.decoders import UNetDecoder
from fomo_ssl.objectives import create_objective
from fomo_ssl.training.compiling import compile_regions

SIZE, HIDDEN = 128, 0.75
DEVICE = torch.device("cuda")
DECODER = {"decoder_dim": 384, "decoder_depth": 4}
Network = tuple[nn.Module, Callable[[], Tensor]]
"""A module and one forward pass to a loss."""


def crops(batch: int) -> Tensor:
    return torch.randn(batch, 1, SIZE, SIZE, SIZE, device=DEVICE)


def hidden_voxels(batch: int) -> Tensor:
    hidden = (torch.rand(batch, 1, *[SIZE // 8] * 3, device=DEVICE) < HIDDEN).float()
    for axis in (2, 3, 4):
        hidden = hidden.repeat_interleave(8, axis)
    return hidden


def our_mae(encoder: str, batch: int, compiled: bool, **decoder: int) -> Network:
    objective = create_objective("mae", create_encoder(encoder), mask_ratio=HIDDEN, **decoder).to(DEVICE)
    if compiled:
        compile_regions(objective)
    x, keys = crops(batch), torch.arange(batch, device=DEVICE)
    views = Views([x], [x], keys, torch.ones(batch, 3, device=DEVICE), keys[None] * 0, keys.bool())
    return objective, lambda: objective(views, 0).loss


def monai_mae(batch: int) -> Network:
    from monai.networks.nets import MaskedAutoEncoderViT

    network = MaskedAutoEncoderViT(
        in_channels=1, img_size=SIZE, patch_size=8, hidden_size=768, mlp_dim=3072, num_layers=12, num_heads=12,
        masking_ratio=HIDDEN, decoder_hidden_size=384, decoder_mlp_dim=1536, decoder_num_layers=4, decoder_num_heads=6,
        qkv_bias=True,
    ).to(DEVICE)  # fmt: skip
    x, n = crops(batch), SIZE // 8
    patches = x.view(batch, n, 8, n, 8, n, 8).permute(0, 1, 3, 5, 2, 4, 6).reshape(batch, n**3, 512)

    def step() -> Tensor:
        predicted, hidden = network(x)
        return ((predicted - patches).square().mean(-1) * hidden).sum() / hidden.sum()

    return network, step


def our_unet(batch: int, compiled: bool) -> Network:
    encoder = create_encoder("resenc_l")
    decoder = UNetDecoder(encoder.feature_info, 1)
    network = nn.ModuleList([encoder, decoder]).to(DEVICE)
    if compiled:
        compile_regions(network)
    return network, masked(lambda visible: decoder(visible, encoder.forward_features(visible)), batch)


def their_unet(batch: int, compiled: bool) -> Network:
    from dynamic_network_architectures.architectures.unet import ResidualEncoderUNet

    network = ResidualEncoderUNet(
        1, n_stages=6, features_per_stage=(32, 64, 128, 256, 320, 320), conv_op=nn.Conv3d, kernel_sizes=3,
        strides=(1, 2, 2, 2, 2, 2), n_blocks_per_stage=(1, 3, 4, 6, 6, 6), num_classes=1, n_conv_per_stage_decoder=1,
        conv_bias=True, norm_op=nn.InstanceNorm3d, norm_op_kwargs={"eps": 1e-5, "affine": True}, nonlin=nn.LeakyReLU,
        nonlin_kwargs={"inplace": True}, deep_supervision=False,
    ).to(DEVICE)  # fmt: skip
    return network, masked(torch.compile(network) if compiled else network, batch)


def masked(predict: Callable[[Tensor], Tensor], batch: int) -> Callable[[], Tensor]:
    x, hidden = crops(batch), hidden_voxels(batch)
    visible = x * (1 - hidden)
    return lambda: ((predict(visible).float() - x).square() * hidden).sum() / hidden.sum()


def measure(name: str, batch: int, steps: int, build: Callable[[], Network], *, bf16: bool = True) -> float:
    """Milliseconds a crop; prints a row."""
    network, forward = build()
    network.train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, fused=True)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cuda", torch.bfloat16, enabled=bf16):
            loss = forward()
        loss.backward()
        optimizer.step()

    for _ in range(3):
        step()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    times = []
    for _ in range(steps):
        began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        began.record()
        step()
        ended.record()
        torch.cuda.synchronize()
        times.append(began.elapsed_time(ended))
    cost = statistics.median(times) / batch
    gib = torch.cuda.max_memory_allocated() / 2**30
    millions = sum(p.numel() for p in network.parameters()) / 1e6
    print(f"| {name} | {batch} | {millions:.1f} | {1e3 / cost:.1f} | {gib:.1f} |", flush=True)
    del network, forward, optimizer
    gc.collect()
    torch.cuda.empty_cache()
    torch._dynamo.reset()
    return cost


def flops() -> None:
    """TFLOP of a step a crop, counted on the plain networks."""
    for name, (_, forward) in {
        "vit_b_p8": our_mae("vit_b_p8", 1, False, **DECODER),
        "resenc_l": our_unet(1, False),
    }.items():
        with FlopCounterMode(display=False) as counter, torch.autocast("cuda", torch.bfloat16):
            forward().backward()
        print(f"{name}: {counter.get_total_flops() / 1e12:.2f} TFLOP a crop, forward and backward", flush=True)


def augmentation(steps: int) -> float:
    """Milliseconds a crop of the preset `all`, the mean over batches of 32."""
    augmenter, x, times = Augmenter("all"), crops(32), []
    for turn in range(4 + 2 * steps):
        keys = torch.arange(32, device=DEVICE) + 32 * turn
        began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        began.record()
        augmenter.pair(x, None, keys)
        ended.record()
        torch.cuda.synchronize()
        times.append(began.elapsed_time(ended))
    return statistics.mean(times[4:]) / 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", default="vit,resenc,augment,flops")
    parser.add_argument("--steps", type=int, default=8)
    options = parser.parse_args()
    chosen = options.only.split(",")
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.benchmark = True
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}\n")
    print("| network | batch | M parameters | crops/s | GiB |\n|---|---|---|---|---|")
    costs = {}
    for compiled in (False, True):
        note = ", compiled" if compiled else ""
        if "vit" in chosen:
            costs[f"vit_b_p8{note}"] = measure(
                f"MAE `vit_b_p8`, decoder 384 x 4{note}",
                32,
                options.steps,
                lambda c=compiled: our_mae("vit_b_p8", 32, c, **DECODER),
            )
        if "resenc" in chosen:
            costs[f"resenc_l{note}"] = measure(
                f"`resenc_l` with a UNet decoder{note}", 4, options.steps, lambda c=compiled: our_unet(4, c)
            )
            measure(
                f"dynamic-network-architectures' ResEnc-L UNet{note}",
                4,
                options.steps,
                lambda c=compiled: their_unet(4, c),
            )
    if "vit" in chosen:
        name = "MONAI `MaskedAutoEncoderViT`, float32 with TF32"
        measure(name, 8, options.steps, lambda: monai_mae(8), bf16=False)
    if "flops" in chosen:
        flops()
    if "augment" in chosen:
        cost = augmentation(options.steps)
        print(f"\naugmentation `all`: {cost:.2f} ms a crop of {SIZE}³")
        for name, step in costs.items():
            print(f"share of a step of {name}: {cost / (cost + step):.1%}")


if __name__ == "__main__":
    main()
