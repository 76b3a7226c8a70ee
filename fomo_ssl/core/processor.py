"""Which processor this is. The standard library alone, so that `doctor` can ask without torch."""

import functools
import platform
from pathlib import Path

_FACTS = Path("/proc/cpuinfo")
_BF16 = {"avx512_bf16", "amx_bf16", "bf16", "svebf16"}  # x86, then Arm


@functools.cache
def _facts() -> dict[str, str]:
    """What Linux tells of the last processor; empty elsewhere."""
    try:
        lines = _FACTS.read_text().splitlines()
    except OSError:
        return {}
    return {key.strip(): value.strip() for key, colon, value in (line.partition(":") for line in lines) if colon}


def processor_name() -> str:
    """Vendor and model, as in "GenuineIntel, Intel(R) Xeon(R) Processor @ 2.50GHz"; the architecture at least."""
    facts = _facts()
    known = ", ".join(facts[key] for key in ("vendor_id", "model name") if key in facts)
    return known or platform.processor() or platform.machine()


def multiplies_bf16() -> bool | None:
    """Whether the processor itself multiplies bf16 numbers (AVX512-BF16, AMX, Arm's BF16); None where unknown."""
    flags = _facts().get("flags") or _facts().get("Features")
    return None if flags is None else not _BF16.isdisjoint(flags.split())
