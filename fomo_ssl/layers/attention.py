"""Attention of given queries, keys and values, by whichever of two ways is the faster."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

SHORT = 448
"""Tokens up to which bf16 attention is written out on a CPU."""


def attend(
    q: Float[Tensor, "b h n d"], k: Float[Tensor, "b h m d"], v: Float[Tensor, "b h m d"]
) -> Float[Tensor, "b h n d"]:
    """Softmax(q k / sqrt(d)) v, fused, but for short bf16 sequences on a CPU.

    There torch's fused kernel is slow: on AVX512-BF16, forward and backward, the two products written out take 0.2 of
    its time for 132 tokens of 64 channels, 0.5 for 436 and 1.1 for 1728. They round the scores to bf16 as well: the
    result's error against float64 is 1.4 times that of the fused kernel for unit normal inputs, twice where scores are
    sixteen times as large.
    """
    if q.device.type != "cpu" or q.dtype != torch.bfloat16 or k.shape[-2] > SHORT:
        return F.scaled_dot_product_attention(q, k, v)
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    out: Tensor = scores.softmax(dim=-1).to(v.dtype) @ v
    return out
