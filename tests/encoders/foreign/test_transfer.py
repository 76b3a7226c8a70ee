import argparse
import gzip
import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
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


def said_of(path: Path) -> str:
    """The error of a file that cannot be read: one short line that begins with the file."""
    with pytest.raises(ForeignWeightsError) as caught:
        read_tensors(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    assert len(message) - len(str(path)) < 220
    assert caught.value.way_out
    return message


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"hello",
        b'{"a": 1}',
        b"<!doctype html><html>404</html>",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 12\n",
        b"case,label\nos\nsystem\n",  # opens like a pickle that asks for a class
        b"\x93NUMPY\x01\x00",
        gzip.compress(b"scan", mtime=0),
    ],
    ids=["empty", "text", "json", "html", "lfs pointer", "table", "npy", "gzip"],
)
def test_what_is_no_checkpoint_is_said_to_be_none(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "file.pth"
    path.write_bytes(content)
    assert "not a PyTorch checkpoint" in said_of(path)


def test_a_scan_is_no_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "scan.nii"
    nib.save(nib.Nifti1Image(np.zeros((4, 4, 4), np.float32), np.eye(4)), path)
    assert "not a PyTorch checkpoint" in said_of(path)


class Marker:
    """Leaves a file behind where a pickle is run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_checkpoint_is_named_and_not_run(zipped: bool, tmp_path: Path) -> None:
    path = tmp_path / "code.pth"
    for content, name in ((tmp_path, type(tmp_path).__qualname__), (argparse.Namespace(a=1), "argparse.Namespace")):
        torch.save({"a": content}, path, _use_new_zipfile_serialization=zipped)
        assert "carries code" in said_of(path)
        assert name in said_of(path)
        assert "weights_only=False" in said_of(path)
    torch.save({"a": Marker(tmp_path / "was_run")}, path, _use_new_zipfile_serialization=zipped)
    assert "carries code" in said_of(path)
    assert not (tmp_path / "was_run").exists()


@pytest.mark.parametrize("zipped", [True, False])
def test_a_damaged_checkpoint(zipped: bool, tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole.pth", tmp_path / "cut.pth"
    torch.save({"a": torch.ones(2)}, whole, _use_new_zipfile_serialization=zipped)
    assert read_tensors(whole)["a"].tolist() == [1.0, 1.0]
    cut.write_bytes(whole.read_bytes()[:-3])
    assert "damaged" in said_of(cut)


def test_an_archive_and_a_folder(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "scans.zip", "w") as archive:
        archive.writestr("hello.txt", "hello")
    assert "another archive" in said_of(tmp_path / "scans.zip")
    assert "no such file" in said_of(tmp_path)


def test_a_list_is_no_dictionary(tmp_path: Path) -> None:
    torch.save([torch.ones(2)], tmp_path / "list.pth")
    with pytest.raises(ForeignWeightsError, match="holds a list"):
        read_tensors(tmp_path / "list.pth")
