"""One step of masked autoencoding (forward and backward) of our encoders beside their peers of equal size.

    python benchmarks/encoders.py [--peers PYTHON] [--only monai,resenc] [--threads 2] [--steps 5]

Peers: MONAI's `MaskedAutoEncoderViT`; the ResEnc encoder and UNet of dynamic-network-architectures; Primus as nnssl
pretrains it (EVA blocks for encoder and decoder, transposed convolutions to voxels). The last two need a Python with
dynamic-network-architectures 0.4.2 and timm 1.0.14 (`--peers`), which Primus cannot do without.

Size, crop, batch, hidden share, decoder and loss are equal within a case. Every network runs in a process of its own;
the processes take turns step by step, so that a change of the machine's speed meets all of them, and a ratio is the
median over turns. All of them keep freed memory, as our commands do (`fomo_ssl/core/memory.py`): otherwise a step also
times the clearing of pages. Memory is the peak of the process over what it held before its network was built. FLOPs are
counted by torch, with attention written out.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

Step = Callable[[], Tensor]
"""One forward pass to a loss."""

KEEP_FREED_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**62)}
"""For glibc; a process of either side gets it at its start."""

HIDDEN = 0.75
RESENC = {"t": ((16, 32, 64, 128), (1, 1, 2, 2)), "s": ((24, 48, 96, 192, 256), (1, 2, 2, 2, 2))}


@dataclass(frozen=True)
class Case:
    """Networks of one size: `ours` and `peer` name builders below, called with `arguments`."""

    title: str
    ours: str
    peer: str
    batch: int
    arguments: dict[str, Any]
    other_python: bool = False
    precisions: tuple[str, ...] = ("fp32", "bf16")


CASES = {
    "monai_t": Case(
        "MAE, ViT 192 x 12, decoder 192 x 4, patch 8, 64³",
        "our_vit",
        "monai_mae",
        8,
        {"size": 64, "dim": 192, "heads": 3, "decoder": 192, "decoder_depth": 4},
    ),
    "monai_s": Case(
        "MAE, ViT 384 x 12, decoder 384 x 4, patch 8, 96³",
        "our_vit",
        "monai_mae",
        2,
        {"size": 96, "dim": 384, "heads": 6, "decoder": 384, "decoder_depth": 4},
    ),
    "primus_s": Case(
        "MAE, Primus-S 396 x 12, decoder 396 x 2, patch 8, 64³",
        "our_primus",
        "primus_mae",
        4,
        {"size": 64, "dim": 396, "heads": 6, "decoder": 396, "decoder_depth": 2},
        other_python=True,
    ),
    "resenc_t": Case("encoder, resenc_t, 64³", "our_resenc", "their_resenc", 4, {"size": 64, "name": "t"}, True),
    "resenc_s": Case("encoder, resenc_s, 64³", "our_resenc", "their_resenc", 2, {"size": 64, "name": "s"}, True),
    "resenc_t_mae": Case(
        "MAE, resenc_t with a UNet decoder, 64³", "our_unet_mae", "their_unet_mae", 4, {"size": 64, "name": "t"}, True
    ),
    "resenc_t_light": Case(
        "MAE, resenc_t: our light decoder, their UNet decoder, 64³",
        "our_light_mae",
        "their_unet_mae",
        4,
        {"size": 64, "name": "t"},
        True,
    ),
}


# --- Networks: each builder gives the module and one step to a loss. ---


def our_vit(batch: int, size: int, dim: int, heads: int, decoder: int, decoder_depth: int) -> tuple[nn.Module, Step]:
    from fomo_ssl import create_encoder
    from fomo_ssl.objectives import create_objective

    encoder = create_encoder("vit_t_p8", dim=dim, heads=heads)
    options = {"mask_ratio": HIDDEN, "decoder_dim": decoder, "decoder_depth": decoder_depth}
    return our_mae(create_objective("mae", encoder, **options), batch, size)


def our_primus(batch: int, size: int, dim: int, heads: int, decoder: int, decoder_depth: int) -> tuple[nn.Module, Step]:
    from fomo_ssl import create_encoder
    from fomo_ssl.objectives import create_objective

    encoder = create_encoder("primus_s", dim=dim, heads=heads, learned_grid=(size // 8,) * 3)
    options = {"mask_ratio": HIDDEN, "decoder_dim": decoder, "decoder_depth": decoder_depth}
    return our_mae(create_objective("mae", encoder, **options), batch, size)


def our_light_mae(batch: int, size: int, name: str) -> tuple[nn.Module, Step]:
    from fomo_ssl import create_encoder
    from fomo_ssl.objectives import create_objective

    objective = create_objective("mae", create_encoder(f"resenc_{name}"), mask_ratio=HIDDEN)
    return our_mae(objective, batch, size)


def our_mae(objective: Any, batch: int, size: int) -> tuple[nn.Module, Step]:
    from fomo_ssl.core.types import Views

    x = crops(batch, size)
    views = Views(
        [x],
        [x],
        torch.arange(batch),
        torch.ones(batch, 3),
        torch.zeros(1, batch, dtype=torch.long),
        torch.zeros(batch).bool(),
    )
    return objective, lambda: objective(views, 0).loss


def monai_mae(batch: int, size: int, dim: int, heads: int, decoder: int, decoder_depth: int) -> tuple[nn.Module, Step]:
    from monai.networks.nets import MaskedAutoEncoderViT

    network = MaskedAutoEncoderViT(
        in_channels=1,
        img_size=size,
        patch_size=8,
        hidden_size=dim,
        mlp_dim=4 * dim,
        num_layers=12,
        num_heads=heads,
        masking_ratio=HIDDEN,
        decoder_hidden_size=decoder,
        decoder_mlp_dim=4 * decoder,
        decoder_num_layers=decoder_depth,
        decoder_num_heads=decoder // 64,
        qkv_bias=True,
    )
    x = crops(batch, size)

    def step() -> Tensor:
        predicted, hidden = network(x)
        error = (predicted.float() - patches(x)).square().mean(-1)
        return (error * hidden).sum() / hidden.sum()

    return network, step


def primus_mae(batch: int, size: int, dim: int, heads: int, decoder: int, decoder_depth: int) -> tuple[nn.Module, Step]:
    """As nnssl composes it: EVA blocks see the kept tokens, EVA blocks see all, transposed convolutions give voxels."""
    from dynamic_network_architectures.building_blocks.eva import Eva
    from dynamic_network_architectures.building_blocks.patch_encode_decode import PatchDecode, PatchEmbed

    assert decoder == dim, "nnssl's decoder is as wide as its encoder"
    grid = (size // 8,) * 3
    common = {
        "embed_dim": dim,
        "num_heads": heads,
        "ref_feat_shape": grid,
        "init_values": 0.1,
        "scale_attn_inner": True,
    }
    network = nn.ModuleDict(
        {
            "down": PatchEmbed((8, 8, 8), 1, dim),
            "encoder": Eva(depth=12, patch_drop_rate=HIDDEN, **common),
            "decoder": Eva(depth=decoder_depth, **common),
            "up": PatchDecode((8, 8, 8), dim, 1),
        }
    )
    network.mask_token = nn.Parameter(torch.zeros(1, 1, dim))
    x = crops(batch, size)

    def step() -> Tensor:
        tokens = network["down"](x).flatten(2).transpose(1, 2)
        seen, keep = network["encoder"](tokens)
        full = network.mask_token.to(seen.dtype).repeat(batch, tokens.shape[1], 1)
        full = full.scatter(1, keep[..., None].expand_as(seen), seen)
        decoded, _ = network["decoder"](full)
        voxels = network["up"](decoded.transpose(1, 2).unflatten(2, grid))
        hidden = torch.ones(batch, tokens.shape[1]).scatter(1, keep, 0.0).view(batch, 1, *grid)
        for axis in (2, 3, 4):
            hidden = hidden.repeat_interleave(8, axis)
        return ((voxels.float() - x).square() * hidden).sum() / hidden.sum()

    return network, step


def our_resenc(batch: int, size: int, name: str) -> tuple[nn.Module, Step]:
    from fomo_ssl import create_encoder

    channels, blocks = RESENC[name]
    encoder = create_encoder("resenc_t", channels=channels, blocks=blocks)
    x = crops(batch, size)
    return encoder, lambda: mean_square(encoder.forward_features(x))


def their_resenc(batch: int, size: int, name: str) -> tuple[nn.Module, Step]:
    from dynamic_network_architectures.building_blocks.residual_encoders import ResidualEncoder

    channels, blocks = RESENC[name]
    encoder = ResidualEncoder(1, n_blocks_per_stage=blocks, return_skips=True, **nnunet_options(channels))
    x = crops(batch, size)
    return encoder, lambda: mean_square(encoder(x))


def our_unet_mae(batch: int, size: int, name: str) -> tuple[nn.Module, Step]:
    from fomo_ssl import create_encoder
    from fomo_ssl.heads.decoders import UNetDecoder

    channels, blocks = RESENC[name]
    encoder = create_encoder("resenc_t", channels=channels, blocks=blocks)
    decoder = UNetDecoder(encoder.feature_info, 1)
    x, hidden = crops(batch, size), voxel_mask(batch, size)
    visible = x * (1 - hidden)

    def step() -> Tensor:
        return masked_mse(decoder(visible, encoder.forward_features(visible)), x, hidden)

    return nn.ModuleList([encoder, decoder]), step


def their_unet_mae(batch: int, size: int, name: str) -> tuple[nn.Module, Step]:
    from dynamic_network_architectures.architectures.unet import ResidualEncoderUNet

    channels, blocks = RESENC[name]
    network = ResidualEncoderUNet(
        1,
        n_blocks_per_stage=blocks,
        num_classes=1,
        n_conv_per_stage_decoder=1,
        deep_supervision=False,
        **nnunet_options(channels),
    )
    x, hidden = crops(batch, size), voxel_mask(batch, size)
    visible = x * (1 - hidden)
    return network, lambda: masked_mse(network(visible), x, hidden)


def nnunet_options(channels: tuple[int, ...]) -> dict[str, Any]:
    """What nnU-Net's ResEnc plans say."""
    return {
        "n_stages": len(channels),
        "features_per_stage": channels,
        "conv_op": nn.Conv3d,
        "kernel_sizes": 3,
        "strides": (1, *[2] * (len(channels) - 1)),
        "conv_bias": True,
        "norm_op": nn.InstanceNorm3d,
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "nonlin": nn.LeakyReLU,
        "nonlin_kwargs": {"inplace": True},
    }


def crops(batch: int, size: int) -> Tensor:
    return torch.randn(batch, 1, size, size, size, generator=torch.Generator().manual_seed(0))


def patches(x: Tensor) -> Tensor:
    """Patches of 8³ voxels in flat order."""
    b, n = len(x), x.shape[-1] // 8
    return x.view(b, n, 8, n, 8, n, 8).permute(0, 1, 3, 5, 2, 4, 6).reshape(b, n**3, 512)


def voxel_mask(batch: int, size: int) -> Tensor:
    draws = torch.rand(batch, 1, *[size // 8] * 3, generator=torch.Generator().manual_seed(1))
    hidden = (draws < HIDDEN).float()
    for axis in (2, 3, 4):
        hidden = hidden.repeat_interleave(8, axis)
    return hidden


def masked_mse(predicted: Tensor, target: Tensor, hidden: Tensor) -> Tensor:
    return ((predicted.float() - target).square() * hidden).sum() / hidden.sum()


def mean_square(maps: list[Tensor]) -> Tensor:
    return torch.stack([level.float().square().mean() for level in maps]).sum()


# --- One process for one network: it takes a step for every line that it reads. ---


def serve(case: Case, side: str, precision: str) -> None:
    build: Callable[..., tuple[nn.Module, Step]] = globals()[getattr(case, side)]
    build(1, **case.arguments)  # imports whatever it needs
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    network, forward = build(case.batch, **case.arguments)
    network.train()

    def step() -> None:
        network.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            loss = forward()
        loss.backward()

    for line in sys.stdin:
        if line.strip() == "step":
            began, cpu = time.perf_counter(), time.process_time()
            try:
                step()
            except RuntimeError as error:
                print(json.dumps({"error": str(error).splitlines()[0]}), flush=True)
                return
            answer = {"wall": time.perf_counter() - began, "cpu": time.process_time() - cpu}
        else:
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            # Counted by operator, and fused attention on a CPU is none that the counter knows.
            with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as flops:
                step()
            answer = {
                "parameters": sum(p.numel() for p in network.parameters()),
                "mib": (peak - before) / 1024,
                "flops": flops.get_total_flops(),
            }
        print(json.dumps(answer), flush=True)


class Runner:
    """A process that serves one network, and what it answered."""

    def __init__(self, key: str, side: str, precision: str, python: str, threads: int) -> None:
        self.side, self.precision = side, precision
        self.times: list[dict[str, float]] = []
        self.error = ""
        environment = {**os.environ, **KEEP_FREED_MEMORY, "OMP_NUM_THREADS": str(threads), "PYTHONWARNINGS": "ignore"}
        command = [python, __file__, "--serve", f"{key}/{side}/{precision}"]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(
            command, env=environment, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True
        )

    def ask(self, line: str) -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        answer: dict[str, Any] = json.loads(self.process.stdout.readline() or '{"error": "the process ended"}')
        self.error = answer.get("error", "")
        return answer

    def end(self) -> None:
        self.process.terminate()
        self.process.wait()


def measure(key: str, options: argparse.Namespace) -> None:
    case = CASES[key]
    theirs = options.peers if case.other_python else sys.executable
    runners = [
        Runner(key, side, precision, python, options.threads)
        for side, python in (("ours", sys.executable), ("peer", theirs))
        for precision in case.precisions
    ]
    try:
        for turn in range(options.warm_up + options.steps):
            for runner in runners:
                if not runner.error:
                    answer = runner.ask("step")
                    if not runner.error and turn >= options.warm_up:
                        runner.times.append(answer)
        whole = [runner for runner in runners if not runner.error]
        facts = {id(runner): runner.ask("end") for runner in whole}
    finally:
        for runner in runners:
            runner.end()
    peers = [runner for runner in whole if runner.side == "peer"]
    print(f"\n{case.title}, batch {case.batch}\n")
    print("| network | precision | M parameters | GFLOP a sample | samples/s | CPU s a sample | MiB | times the peer |")
    print("|---|---|---|---|---|---|---|---|")
    for runner in runners:
        name = "fomo_ssl" if runner.side == "ours" else case.peer
        if runner.error:
            print(f"| {name} | {runner.precision} | fails: {runner.error[:80]} |")
            continue
        fact = facts[id(runner)]
        rate = case.batch / statistics.median(t["wall"] for t in runner.times)
        cpu = statistics.median(t["cpu"] for t in runner.times) / case.batch
        gain = (
            ""
            if runner.side == "peer"
            else ", ".join(f"{ratio(peer, runner):.2f} ({peer.precision})" for peer in peers)
        )
        print(
            f"| {name} | {runner.precision} | {fact['parameters'] / 1e6:.2f} | {fact['flops'] / 1e9 / case.batch:.1f} "
            f"| {rate:.2f} | {cpu:.3f} | {fact['mib']:.0f} | {gain} |",
            flush=True,
        )


def ratio(peer: Runner, ours: Runner) -> float:
    """How many times as fast ours is: the median over turns of the CPU seconds of one over the other's."""
    return statistics.median(p["cpu"] / o["cpu"] for p, o in zip(peer.times, ours.times, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--peers", help="a Python with dynamic-network-architectures 0.4.2 and timm 1.0.14")
    parser.add_argument("--only", help=f"comma-separated, of {', '.join(CASES)}; a part of a name will do")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--warm-up", type=int, default=2)
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        key, side, precision = options.serve.split("/")
        serve(CASES[key], side, precision)
        return
    parts = options.only.split(",") if options.only else [""]
    chosen = [key for key in CASES if any(part in key for part in parts)]
    print(f"{options.threads} threads, median of {options.steps} steps; ratios are of CPU seconds")
    for key in chosen:
        if CASES[key].other_python and not options.peers:
            print(f"\n{CASES[key].title}: left out, it needs --peers")
        else:
            measure(key, options)


if __name__ == "__main__":
    main()
