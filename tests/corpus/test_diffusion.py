from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fomo_ssl.core.errors import Reason, RejectedScan
from fomo_ssl.corpus.diffusion import Part, plan_series


def lay(folder: Path, b: str | None, vectors: str | None = None) -> Path:
    for extension, text in (("bval", b), ("bvec", vectors)):
        if text is not None:
            (folder / f"dwi.{extension}").write_text(text)
    return folder / "dwi.nii.gz"


def taken(plan: list) -> list[tuple[str, list[int]]]:
    return [(part.sequence, sorted(part.weights)) for part in plan]


def test_b0_and_shells(tmp_path: Path):
    """Two b0 of which the first counts, a shell of four with jitter, and a single volume."""
    b = "0 995 1000 1005 2000 5 1000"
    vectors = "0 1 .6 .1 1 0 .9\n0 .1 .8 .1 0 0 .1\n0 .1 0 .98 0 0 .1"
    plan = plan_series(lay(tmp_path, b, vectors), "dwi", 7)
    assert taken(plan) == [("dwi_b0", [0]), ("dwi_b1000", [1, 2, 3]), ("dwi_b2000", [4])]
    assert [part.volume for part in plan] == [0, 1, 4]
    assert plan[1].weights == pytest.approx({1: 1 / 3, 2: 1 / 3, 3: 1 / 3})
    assert "mean of volumes 1 2 3 of 7" in plan[1].note


def test_shells_within_fifty_are_one(tmp_path: Path):
    vectors = "\n".join(["1 0 0", "0 1 0", "0 0 1", "1 1 0"])
    assert taken(plan_series(lay(tmp_path, "700 750 751 0", vectors), "dwi", 4)) == [
        ("dwi_b0", [3]),
        ("dwi_b700", [0, 1]),
        ("dwi_b750", [2]),
    ]


def test_a_shell_without_directions_is_refused_and_the_rest_kept(tmp_path: Path):
    plan = plan_series(lay(tmp_path, "0 1000 1000 3000"), "dwi", 4)
    assert isinstance(plan[0], Part)
    volume, error = plan[1]
    assert (volume, error.reason) == (1, Reason.BAD_GRADIENTS)
    assert taken(plan[2:]) == [("dwi_b3000", [3])]


@pytest.mark.parametrize("b", [None, "0 1000", "0 x 1000", "0 nan 1000", "-5 0 1000", "", "0 1\n2"])
def test_unusable_b_values(tmp_path: Path, b: str | None):
    with pytest.raises(RejectedScan) as caught:
        plan_series(lay(tmp_path, b), "dwi", 3)
    assert caught.value.reason == Reason.BAD_GRADIENTS


def test_perfusion_is_averaged_or_subtracted():
    (many,) = plan_series("asl.nii.gz", "perf", 5)
    assert many.weights == pytest.approx(dict.fromkeys(range(5), 0.2))
    (three,) = plan_series("asl.nii.gz", "perf", 3)
    assert three.weights == {0: -1.0, 2: 1.0}


@pytest.mark.parametrize("sequence", ["t1", "t2s", "other"])
def test_other_series_are_refused(sequence: str):
    with pytest.raises(RejectedScan) as caught:
        plan_series("x.nii.gz", sequence, 4)
    assert caught.value.reason == Reason.SEVERAL_VOLUMES


@given(st.lists(st.integers(0, 3000), min_size=2, max_size=60))
def test_shells_share_no_volume_and_span_at_most_fifty(tmp_path_factory, b: list[int]):
    rng = np.random.default_rng(len(b))
    vectors = "\n".join(" ".join(f"{v:.4f}" for v in row) for row in rng.normal(size=(3, len(b))))
    plan = plan_series(lay(tmp_path_factory.mktemp("b"), " ".join(map(str, b)), vectors), "dwi", len(b))
    used = [position for part in plan for position in part.weights]
    assert len(used) == len(set(used))
    for part in plan:
        values = [b[position] for position in part.weights]
        assert max(values) - min(values) <= 50
        assert len(values) in (1, 2, 3)
        assert (part.sequence == "dwi_b0") == (max(values) <= 5)
    assert sum(part.sequence == "dwi_b0" for part in plan) == (min(b) <= 5)
