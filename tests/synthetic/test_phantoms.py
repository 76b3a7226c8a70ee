import numpy as np
import pytest

from fomo_ssl.synthetic import phantom
from fomo_ssl.synthetic.contrasts import TISSUES, signals


def contrast(sequence: str, first: str, second: str) -> float:
    values = dict(zip(TISSUES, signals(sequence).tolist(), strict=True))
    return values[first] / values[second]


def test_a_phantom_is_the_same_every_time_and_differs_by_seed() -> None:
    first, again, other = phantom(3), phantom(3), phantom(4)
    assert first.data.dtype == np.float32
    assert first.data.shape == (32, 32, 32)
    assert first.data.tobytes() == again.data.tobytes()
    assert not np.array_equal(first.data, other.data)
    np.testing.assert_allclose(first.spacing, 7.0)


@pytest.mark.parametrize("sequence", ["t1", "t1c", "t2", "flair", "dwi_b0", "dwi_b1000", "swi", "adc"])
def test_a_phantom_is_a_head_in_air(sequence: str) -> None:
    data = phantom(0, (24, 32, 28), sequence).data
    assert data.shape == (24, 32, 28)
    assert data[0, 0].mean() < 40
    assert data[6:18, 8:24, 8:20].mean() > 100


def test_sequences_of_one_seed_show_one_head() -> None:
    air = [phantom(5, sequence=s).data < 60 for s in ("t1", "swi")]
    overlap = (air[0] & air[1]).sum() / (air[0] | air[1]).sum()
    assert overlap > 0.75


def test_signal_equations_give_the_contrasts_of_the_textbook() -> None:
    assert contrast("t1", "wm", "gm") > 1.2
    assert contrast("t1", "csf", "gm") < 0.5
    assert contrast("t2", "csf", "gm") > 1.8
    assert contrast("t2", "gm", "wm") > 1.2
    assert contrast("flair", "csf", "gm") < 0.2
    assert contrast("flair", "hyperintensity", "wm") > 1.4
    assert contrast("t1c", "meningioma", "gm") > 1.5
    assert 0.85 < contrast("t1", "meningioma", "gm") < 1.15
    assert 0.85 < contrast("flair", "meningioma", "gm") < 1.2


def test_an_infarct_is_bright_on_diffusion_and_shine_through_is_not_restricted() -> None:
    assert contrast("dwi_b1000", "infarct", "gm") > 1.8
    assert 1.15 < contrast("dwi_b1000", "old_infarct", "gm") < 1.8
    assert contrast("flair", "infarct", "gm") > 1.1


def test_an_unknown_sequence_is_named() -> None:
    with pytest.raises(ValueError, match="'pet'"):
        phantom(0, sequence="pet")
