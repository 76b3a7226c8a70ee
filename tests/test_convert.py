"""The command: foreign weights to a bundle and back, as a user types it."""

import re
from pathlib import Path

import pytest
import torch

from fomo_ssl import convert, create_encoder, load_encoder
from fomo_ssl.bundle import BundleConfig, InputContract, load_config, load_weights, save_bundle
from fomo_ssl.synthetic.phantoms import phantom

ARGUMENTS = {"channels": (4, 8, 8), "blocks": (1, 1, 2)}


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    contract = InputContract(("t1",), spacing=1.0, max_upsample=2.0, crop=(24, 32, 16), crop_foreground=False)
    config = BundleConfig("resenc_b", ARGUMENTS, 1, contract, {"samples": 8, "datasets": ["ds1"]})
    save_bundle(tmp_path / "bundle", create_encoder("resenc_b", **ARGUMENTS), config)
    return tmp_path / "bundle"


def test_out_and_in_again(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, again = tmp_path / "out", tmp_path / "again"
    convert.main(["export", str(bundle), "--format", "nnssl", "--output", str(out)])
    assert {file.name for file in out.iterdir()} == {"checkpoint_final.pth", "adaptation_plan.json", "config.json"}
    capsys.readouterr()
    convert.main(["import", str(out / "checkpoint_final.pth"), "--output", str(again)])
    printed = capsys.readouterr().out
    before, after = load_weights(bundle), load_weights(again)
    rows = [line.split()[0] for line in printed.splitlines() if re.search(r" (turned|copied) ", line)]
    assert rows == list(before.state_dict())
    for name, value in before.state_dict().items():
        assert torch.equal(value, after.state_dict()[name]), name

    config = load_config(again)
    assert config.input == load_config(bundle).input
    card = (again / "README.md").read_text()
    assert "| imported_from | nnssl |" in card
    assert "| dataset | ds1 |" in card
    assert load_encoder(again).embed(phantom(0)).isfinite().all()


def test_only_what_a_conversion_wrote_is_replaced(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out, again, thesis = tmp_path / "out", tmp_path / "again", tmp_path / "thesis"
    file = out / "checkpoint_final.pth"
    for _ in range(2):  # the second replaces the first
        convert.main(["export", str(bundle), "--format", "nnssl", "--output", str(out)])
        convert.main(["import", str(file), "--output", str(again)])
    thesis.mkdir()
    (thesis / "years_of_work.txt").touch()
    monkeypatch.chdir(thesis)
    for arguments, message in (
        (["import", str(file), "--output", str(thesis)], "is there and no bundle"),
        (["import", str(file), "--output", "."], "is there and no bundle"),
        (["import", str(file), "--output", str(out)], "is there and no bundle"),
        (["import", str(file), "--output", str(file)], "is there and no bundle"),
        (["export", str(bundle), "--format", "state_dict", "--output", str(bundle)], "is there and no export"),
    ):
        before = sorted(tmp_path.rglob("*"))
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            convert.main(arguments)
        line = capsys.readouterr().err
        assert stop.value.code == 2
        assert message in line
        assert line.count("\n") == 1
        assert sorted(tmp_path.rglob("*")) == before
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    convert.main(["import", str(file), "--output", "."])
    assert load_config(tmp_path / "empty") == load_config(again)


@torch.no_grad()
def test_a_swin_comes_in_with_another_window(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    donor = create_encoder("swin_t", dim=12, depths=(2, 1), heads=(2, 4), window=4).eval()
    file, x = tmp_path / "swin.pth", torch.randn(1, 1, 24, 20, 16)
    torch.save(donor.state_dict(), file)
    for window, same in ((4, True), (6, False)):
        bundle = tmp_path / f"window_{window}"
        convert.main(["import", str(file), "--window", str(window), "--output", str(bundle)])
        assert load_config(bundle).encoder_args["window"] == window
        encoder = load_weights(bundle)
        assert encoder(x).isfinite().all()
        assert torch.equal(encoder(x), donor(x)) is same
    with pytest.raises(SystemExit):
        convert.main(["import", str(file), "--window", "1", "--output", str(tmp_path / "none")])
    assert "use 2 or more along each axis" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["import", "nowhere.pth", "--output", "x"], "nowhere.pth: no such file"),
        (["export", "BUNDLE", "--format", "onnx", "--output", "x"], "no format 'onnx' is written. known: nnssl"),
        (["export", "BUNDLE", "--output", "x"], "--format"),
        (["explode"], "invalid choice: 'explode'"),
    ],
)
def test_mistakes_are_one_line(
    bundle: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        convert.main([str(bundle) if word == "BUNDLE" else word for word in arguments])
    assert stop.value.code == 2
    line = capsys.readouterr().err
    assert message in line
    assert line.count("\n") == 1
