import base64
import io

import numpy as np
import pytest
from PIL import Image

from fomo_ssl.report import pictures
from fomo_ssl.report.pictures import PREDICTION, THICKNESS, TRUTH


def decode(address: str) -> np.ndarray:
    head, _, body = address.partition(",")
    assert head == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(body))))


def test_outline_keeps_to_the_mask_and_to_class_borders() -> None:
    mask = np.zeros((20, 20), int)
    mask[2:18, 2:18] = 1
    mask[2:18, 10:18] = 2
    edge = pictures.outline(mask)
    assert not edge[mask == 0].any()
    assert edge[10, 9]
    assert edge[10, 10]
    assert not edge[10, 2 + THICKNESS]
    assert not pictures.outline(np.zeros((5, 5), int)).any()
    # A mask that fills the slice still has an outline, at the rim.
    assert pictures.outline(np.ones((9, 9), int))[0].all()


def test_busiest_slice_is_the_middle_of_the_fullest() -> None:
    mask = np.zeros((4, 4, 9), bool)
    mask[1:3, 1:3, 2:7] = True
    assert pictures.busiest_slice(mask, 2) == 4
    mask[3, 3, 6] = True
    assert pictures.busiest_slice(mask, 2) == 6
    assert pictures.busiest_slice(np.zeros((4, 4, 9), bool), 2) == 4


def test_truth_and_prediction_show_in_their_colours_where_they_are() -> None:
    image = np.random.default_rng(0).random((24, 24, 24))
    truth, prediction = np.zeros((2, 24, 24, 24), int)
    truth[2:8, 4:20, 4:20] = 1
    prediction[16:22, 4:20, 4:20] = 1
    pixels = decode(pictures.case_picture(image, truth, prediction, (1.0, 1.0, 1.0), height=96))
    axial = pixels[:, 100:196]
    columns = {colour: np.flatnonzero((axial == colour).all(axis=-1).any(axis=0)) for colour in (TRUTH, PREDICTION)}
    # x grows to the right of the picture: the truth lies at small x.
    assert columns[TRUTH].max() < 48 < columns[PREDICTION].min()
    plain = pixels[:, :96]
    assert (plain[..., 0] == plain[..., 1]).all()


def test_front_is_up() -> None:
    image = np.zeros((16, 16, 16))
    image[:, 12:, :] = 1.0  # +y is anterior
    pixels = decode(pictures.case_picture(image, image * 0, image * 0, (1.0, 1.0, 1.0), height=64))
    assert pixels[:8, :64].mean() > 200
    assert pixels[-8:, :64].mean() < 50


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (1.0, 1.0, 4.0), (3.0, 0.5, 1.0)])
def test_panels_have_the_proportions_of_the_head(spacing: tuple[float, float, float]) -> None:
    shape, height = (20, 30, 10), 60
    image = np.random.default_rng(0).random(shape)
    nothing = np.zeros(shape, int)
    pixels = decode(pictures.case_picture(image, nothing, nothing, spacing, height=height))
    x, y, z = (n * edge for n, edge in zip(shape, spacing, strict=True))
    assert pixels.shape[0] == height
    assert pixels.shape[1] == pytest.approx(height * (2 * x / y + x / z + y / z) + 3 * 4, abs=3)


def test_a_constant_image_is_drawn() -> None:
    flat = np.ones((8, 8, 8))
    decode(pictures.case_picture(flat, flat.astype(int), flat.astype(int), (1.0, 1.0, 1.0), height=32))
