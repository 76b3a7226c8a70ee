"""What GPUs can compute at most, from their makers' data sheets; another GPU is one line more."""

import re

PEAKS = (
    (r"B200", 2250.0),
    (r"B100", 1750.0),
    (r"H200 NVL|H100 NVL", 835.0),
    (r"GH200|H200", 989.0),
    (r"H100 PCIe", 756.0),
    (r"H100", 989.0),
    (r"A100", 312.0),
    (r"A40", 149.7),
    (r"A30", 165.0),
    (r"A10", 125.0),
    (r"L40S", 362.0),
    (r"L40", 181.0),
    (r"L4", 121.0),
    (r"RTX 6000 Ada", 364.0),
    (r"RTX A6000", 154.8),
    (r"RTX 4090", 165.2),
    (r"RTX 3090", 71.0),
    (r"MI300X", 1307.0),
    (r"MI250X", 383.0),
)
"""Part of a GPU's name, and TFLOP/s of dense bfloat16 products summed in float32, without sparsity."""


def peak_flops(device: str, precision: str) -> float | None:
    """FLOP/s that a device can do at most, or None where that is not known.

    Args:
        device: as `torch.cuda.get_device_name` says it.
        precision: Lightning's name. Only 16-bit ones have a peak of their own: that of 32-bit depends on whether
            TF32 is allowed, which differs between products and convolutions.
    """
    if "16" not in precision or "MIG" in device:
        return None
    for name, tera in PEAKS:
        if re.search(rf"\b(?:{name})\b", device):
            return tera * 1e12
    return None
