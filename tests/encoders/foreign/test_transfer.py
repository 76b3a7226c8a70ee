from pathlib import Path

import pytest
import torch
from torch import Tensor

from fomo_ssl.core.errors import ForeignWeightsError
from fomo_ssl.encoders import Encoder, create_encoder
from fomo_ssl.encoders.foreign import read_tensors, transfer

WHERE = Path("weights.pth")


def small(seed: int) -> Encoder:
    torch.manual_seed(seed)
    return create_encoder("resenc_t", channels=(4, 8), blocks=(1, 1))


def foreign(encoder: Encoder) -> dict[str, Tensor]:
    return {f"net.{name}": value for name, value in encoder.state_dict().items()} | {"decoder.weight": torch.zeros(3)}


def strip(name: str) -> str | None:
    return name.removeprefix("net.") if name.startswith("net.") else None


def test_every_tensor_is_moved_and_accounted_for() -> None:
    donor, encoder = small(1), small(2)
    report = transfer(encoder, foreign(donor), strip, source="test", where=WHERE)
    x = torch.randn(1, 1, 8, 8, 8)
    assert torch.equal(encoder(x), donor(x))
    assert {m.target: m.source for m in report.moved} == {name: f"net.{name}" for name in encoder.state_dict()}
    assert report.unused == ("decoder.weight",)
    assert report.parameters == sum(p.numel() for p in encoder.parameters())
    assert "not used: decoder.weight" in report.table()


def test_a_missing_tensor_is_an_error_and_nothing_is_loaded() -> None:
    encoder = small(2)
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    state = foreign(small(1))
    state.pop("net.stages.1.blocks.0.conv1.conv.weight")
    with pytest.raises(ForeignWeightsError, match=r"stages\.1\.blocks\.0\.conv1"):
        transfer(encoder, state, strip, source="test", where=WHERE)
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())


def test_nothing_that_matches_is_an_error() -> None:
    with pytest.raises(ForeignWeightsError, match=r"and \d+ more"):
        transfer(small(0), {"a": torch.zeros(1)}, strip, source="test", where=WHERE)


def test_another_shape_is_an_error() -> None:
    state = foreign(small(1))
    name = next(iter(state))
    with pytest.raises(ForeignWeightsError, match="where the encoder has"):
        transfer(small(0), {name: torch.zeros(9, 9)}, strip, source="test", where=WHERE)


def test_aliases_must_agree() -> None:
    def both(name: str) -> str | None:
        return strip(name.removeprefix("alias."))

    state = foreign(small(1))
    state |= {f"alias.{name}": value for name, value in state.items()}
    transfer(small(0), state, both, source="test", where=WHERE)
    name = next(iter(state))
    with pytest.raises(ForeignWeightsError, match="two different tensors"):
        transfer(small(0), state | {f"alias.{name}": state[name] + 1}, both, source="test", where=WHERE)


def test_a_change_is_applied_and_named() -> None:
    def double(target: str, tensor: Tensor) -> tuple[Tensor, str]:
        return 2 * tensor, "doubled"

    donor, encoder = small(1), small(2)
    report = transfer(encoder, foreign(donor), strip, source="test", where=WHERE, change=double)
    assert all(torch.equal(value, 2 * donor.state_dict()[name]) for name, value in encoder.state_dict().items())
    assert {m.how for m in report.moved} == {"doubled"}


def test_files_that_are_no_checkpoints(tmp_path: Path) -> None:
    with pytest.raises(ForeignWeightsError, match="no such file"):
        read_tensors(tmp_path / "none.pth")
    (tmp_path / "text.pth").write_text("hello")
    with pytest.raises(ForeignWeightsError):
        read_tensors(tmp_path / "text.pth")
    torch.save({"a": Path("code")}, tmp_path / "code.pth")
    with pytest.raises(ForeignWeightsError, match="more than tensors"):
        read_tensors(tmp_path / "code.pth")
    torch.save({"a": torch.ones(2)}, tmp_path / "whole.pth")
    whole = (tmp_path / "whole.pth").read_bytes()
    (tmp_path / "cut.pth").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ForeignWeightsError):
        read_tensors(tmp_path / "cut.pth")
