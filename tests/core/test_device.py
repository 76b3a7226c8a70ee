import pytest
import torch

from fomo_ssl.core.device import choose_device, uses_gpu
from fomo_ssl.core.errors import ConfigError


def test_named_and_default_devices() -> None:
    assert choose_device("cpu") == torch.device("cpu")
    assert choose_device().type == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize("name", ["gpu-please", "cuda:97"])
def test_a_device_that_is_not_there_is_one_line(name: str) -> None:
    with pytest.raises(ConfigError, match="no device") as error:
        choose_device(name)
    assert "\n" not in str(error.value)


def test_a_gpu_that_is_there_need_not_be_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert [uses_gpu(name) for name in (None, "auto", "gpu", "cuda", "cpu", "mps")] == [True] * 4 + [False] * 2
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert not uses_gpu("gpu")
