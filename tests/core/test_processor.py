"""What Linux says of a processor, read as it stands."""

import platform
from pathlib import Path

import pytest

from fomo_ssl.core import processor

XEON = """processor\t: 0
vendor_id\t: GenuineIntel
model name\t: Intel(R) Xeon(R) Processor @ 2.50GHz
flags\t\t: fpu avx512f avx512_vnni

processor\t: 1
vendor_id\t: GenuineIntel
model name\t: Intel(R) Xeon(R) Processor @ 2.50GHz
flags\t\t: fpu avx512f avx512_vnni
"""
ARM = "processor\t: 0\nFeatures\t: fp asimd bf16 i8mm\nCPU part\t: 0xd40\n"


@pytest.mark.parametrize(
    ("text", "name", "bf16"),
    [
        (XEON, "GenuineIntel, Intel(R) Xeon(R) Processor @ 2.50GHz", False),
        (XEON.replace("avx512_vnni", "avx512_bf16"), "GenuineIntel, Intel(R) Xeon(R) Processor @ 2.50GHz", True),
        (ARM, platform.processor() or platform.machine(), True),
        (None, platform.processor() or platform.machine(), None),
    ],
)
def test_name_and_bf16(text, name, bf16, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if text is not None:
        (tmp_path / "cpuinfo").write_text(text)
    monkeypatch.setattr(processor, "_FACTS", tmp_path / "cpuinfo")
    processor._facts.cache_clear()
    try:
        assert processor.processor_name() == name
        assert processor.multiplies_bf16() is bf16
    finally:
        processor._facts.cache_clear()
