"""Counter-based randomness: every draw is a pure function of (seed, sample index, stream).

A key is an int64 per sample. Numbers come from SplitMix64's finaliser (Steele et al. 2014, doi 10.1145/2714064.2660195)
applied to key + counter, so they are the same bits on every device, for every batch size, worker and rank,
and nothing has to be saved to resume.
"""

import hashlib
import math

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

_GAMMA = 0x9E3779B97F4A7C15
_MASK64 = (1 << 64) - 1


def _signed(value: int) -> int:
    """The int64 with the same bits as an unsigned 64-bit integer."""
    value &= _MASK64
    return value - (1 << 64) if value >> 63 else value


def stream_id(name: str) -> int:
    """A stable 64-bit number for a named stream of draws, such as "mask" or "crop"."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")


def mix(value: int) -> int:
    """SplitMix64's finaliser on a Python integer; returns an unsigned 64-bit integer."""
    value = (value + _GAMMA) & _MASK64
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK64
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK64
    return value ^ (value >> 31)


def sample_key(seed: int, index: int, stream: str = "") -> int:
    """The signed 64-bit key of global sample `index` under `seed`."""
    return _signed(mix(mix(mix(seed) ^ index) ^ stream_id(stream)))


def numpy_generator(seed: int, index: int = 0, stream: str = "") -> np.random.Generator:
    """A NumPy generator for host-side draws of one sample (crop positions, synthetic subjects)."""
    return np.random.Generator(np.random.Philox(key=[sample_key(seed, index, stream) & _MASK64, 0]))


def _shift(x: Tensor, bits: int) -> Tensor:
    """Logical right shift of int64 (torch's own shift keeps the sign)."""
    return (x >> bits).bitwise_and_((1 << (64 - bits)) - 1)


def _mix(x: Tensor) -> Tensor:
    x = x + _signed(_GAMMA)  # and from here in place: memory traffic is what a draw for every voxel costs
    x.bitwise_xor_(_shift(x, 30)).mul_(_signed(0xBF58476D1CE4E5B9))
    x.bitwise_xor_(_shift(x, 27)).mul_(_signed(0x94D049BB133111EB))
    return x.bitwise_xor_(_shift(x, 31))


def fold(keys: Int64[Tensor, "b"], stream: str) -> Int64[Tensor, "b"]:
    """New keys for a named stream: independent of the draws made from `keys` themselves."""
    return _mix(keys ^ _signed(stream_id(stream)))


def bits(keys: Int64[Tensor, "b"], *shape: int) -> Int64[Tensor, "b ..."]:
    """64 random bits per element as int64, shape (b, *shape)."""
    count = math.prod(shape)
    counter = torch.arange(count, device=keys.device, dtype=torch.int64) * _signed(_GAMMA)
    return _mix(_mix(keys)[:, None] + counter).reshape(len(keys), *shape)


def uniform(keys: Int64[Tensor, "b"], *shape: int, low: float = 0.0, high: float = 1.0) -> Float[Tensor, "b ..."]:
    """Uniform float32 in [low, high), shape (b, *shape)."""
    unit = _shift(bits(keys, *shape), 40).to(torch.float32) * 2.0**-24
    return unit * (high - low) + low


def normal(keys: Int64[Tensor, "b"], *shape: int) -> Float[Tensor, "b ..."]:
    """Standard normal float32 by Box-Muller, both numbers of a pair from one 64-bit draw, shape (b, *shape)."""
    count = math.prod(shape)
    raw = bits(keys, (count + 1) // 2)
    radius = _shift(raw, 32).to(torch.float32).add_(1.0).mul_(2.0**-32).log_().mul_(-2.0).sqrt_()
    angle = raw.bitwise_and_(0xFFFFFFFF).to(torch.float32).mul_(2.0 * math.pi * 2.0**-32)
    pair = torch.cat([torch.cos(angle).mul_(radius), angle.sin_().mul_(radius)], dim=1)
    return pair[:, :count].reshape(len(keys), *shape)
