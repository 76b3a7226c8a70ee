"""Contract of every transform, and each one beside a slow reference or a law it has to obey."""

import itertools
import math
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import fft, interpolate, ndimage

from fomo_ssl.core.errors import ConfigError
from fomo_ssl.data.augment.intensity import (
    BiasField,
    BiasFieldParams,
    BlurParams,
    ContrastParams,
    GammaParams,
    LowResolutionParams,
    NoiseParams,
)
from fomo_ssl.data.augment.kspace import BANDS, Gibbs, GibbsParams, Motion, MotionParams, displaced, filter_matrix
from fomo_ssl.data.augment.params import Grid
from fomo_ssl.data.augment.presets import PRESETS, TRANSFORMS
from fomo_ssl.data.augment.separable import bspline_matrix, gaussian_matrix, thick_slice_matrix
from fomo_ssl.data.augment.spatial import (
    Affine,
    AffineParams,
    Elastic,
    ElasticParams,
    Flip,
    FlipParams,
    combine,
    rotation,
    warp,
    warp_grid,
)
from fomo_ssl.synthetic.phantoms import phantom

NAMES = list(TRANSFORMS)
SHAPE = torch.Size((12, 14, 10))


def _always(name):
    values = dict(PRESETS["all"][name])
    values["p"] = (1.0, 1.0, 1.0) if name == "flip" else 1.0
    return TRANSFORMS[name](**values)


def _grid(batch, shape=SHAPE, spacing=(1.0, 1.0, 1.0)):
    return Grid(torch.Size(shape), torch.tensor([spacing]).repeat(batch, 1))


def _volumes(batch=3, shape=SHAPE, channels=1):
    return torch.from_numpy(np.random.default_rng(0).normal(size=(batch, channels, *shape)).astype(np.float32))


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_is_its_items(name):
    x, keys = _volumes(), torch.tensor([3, 5, 8])
    transform = _always(name)
    params = transform.sample(keys, _grid(3))
    together = transform.apply(x, params)
    assert params.applied.all()
    assert together.shape == x.shape
    assert together.dtype == torch.float32
    assert not torch.equal(together, x)
    for item in range(3):
        own = transform.sample(keys[item : item + 1], _grid(1))
        for field in fields(own):
            assert torch.equal(getattr(own, field.name)[0], getattr(params, field.name)[item])
        torch.testing.assert_close(transform.apply(x[item : item + 1], own)[0], together[item], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_channels_of_a_scan_share_what_was_drawn(name):
    x = _volumes(channels=1).expand(-1, 2, -1, -1, -1).contiguous()
    transform = _always(name)
    out = transform.apply(x, transform.sample(torch.tensor([3, 5, 8]), _grid(3)))
    assert out.shape == x.shape
    if name != "noise":  # which no two voxels share
        torch.testing.assert_close(out[:, 0], out[:, 1])


@pytest.mark.parametrize("name", NAMES)
def test_only_the_samples_that_drew_it_change(name):
    x, keys = _volumes(), torch.tensor([3, 5, 8])
    before = x.clone()
    transform = _always(name)
    params = transform.sample(keys, _grid(3))
    if name == "flip":
        chosen = replace(params, axes=torch.tensor([[False] * 3, [True] * 3, [False] * 3]))
    else:
        chosen = replace(params, applied=torch.tensor([False, True, False]))
    out = transform.apply(x, chosen)
    assert torch.equal(out[[0, 2]], x[[0, 2]])
    assert not torch.equal(out[1], x[1])
    assert torch.equal(x, before)


@pytest.mark.parametrize("name", NAMES)
def test_probability_is_the_share_of_samples(name):
    values = dict(PRESETS["all"][name])
    values["p"] = (0.25, 0.0, 0.0) if name == "flip" else 0.25
    keys = torch.arange(400)
    applied = TRANSFORMS[name](**values).sample(keys, _grid(400)).applied
    assert 0.17 < applied.float().mean() < 0.33


def _identity(name, batch):
    on = torch.ones(batch, dtype=torch.bool)
    ones, zeros = torch.ones(batch), torch.zeros(batch)
    return {
        "flip": FlipParams(on, torch.zeros(batch, 3, dtype=torch.bool)),
        "affine": AffineParams(on, torch.eye(3).repeat(batch, 1, 1)),
        "elastic": ElasticParams(on, torch.zeros(batch, 3, 5, 5, 5)),
        "gamma": GammaParams(on, ones),
        "contrast": ContrastParams(on, ones, zeros),
        "bias_field": BiasFieldParams(on, torch.zeros(batch, 1, 5, 5, 5)),
        "motion": MotionParams(
            on,
            torch.eye(3).repeat(batch, 1, 1),
            torch.zeros(batch, 3),
            torch.eye(3).bool(),
            on[:, None].repeat(1, BANDS),
        ),
        "blur": BlurParams(on, zeros),
        "low_resolution": LowResolutionParams(on, torch.ones(batch, 3)),
        "gibbs": GibbsParams(on, torch.ones(batch, 3)),
        "noise": NoiseParams(on, zeros, torch.arange(batch)),
    }[name]


@pytest.mark.parametrize("name", NAMES)
def test_neutral_parameters_change_nothing(name):
    x = _volumes()
    torch.testing.assert_close(_always(name).apply(x, _identity(name, 3)), x, rtol=1e-5, atol=1e-5)


def test_flip_is_its_own_inverse_and_follows_its_axes():
    x = _volumes(batch=8)
    axes = torch.tensor(list(itertools.product([False, True], repeat=3)))
    params = FlipParams(axes.any(1), axes)
    flip = Flip((0.5, 0.5, 0.5))
    once = flip.apply(x, params)
    for item, chosen in enumerate(axes):
        assert torch.equal(once[item], x[item].flip([axis + 1 for axis in range(3) if chosen[axis]]))
    assert torch.equal(flip.apply(once, params), x)


def test_warp_is_linear_interpolation_of_the_mirrored_crop():
    x = _volumes(batch=2)
    affine = Affine(1.0, 30.0, (0.7, 0.8)).sample(torch.tensor([1, 2]), _grid(2, spacing=(1.0, 1.0, 1.5)))
    elastic = Elastic(1.0, 3, 0.4).sample(torch.tensor([4, 5]), _grid(2))
    got = warp(x, combine(affine, elastic))
    centre = (np.array(SHAPE) - 1) / 2
    voxels = np.stack(np.meshgrid(*(np.arange(n) for n in SHAPE), indexing="ij"), -1) - centre
    basis = [bspline_matrix(n, 3, torch.zeros(())).numpy() for n in SHAPE]
    for item in range(2):
        field = np.einsum("xi,yj,zk,cijk->xyzc", *basis, elastic.control[item].numpy())
        source = (voxels + field) @ affine.matrix[item].numpy().T + centre
        slow = ndimage.map_coordinates(x[item, 0].numpy(), source.transpose(3, 0, 1, 2), order=1, mode="reflect")
        np.testing.assert_allclose(got[item, 0].numpy(), slow, atol=2e-4)


@given(
    angles=st.tuples(*[st.floats(-3, 3)] * 3),
    spacing=st.tuples(*[st.floats(0.5, 5)] * 3),
    key=st.integers(-(2**63), 2**63 - 1),
)
@settings(max_examples=50, deadline=None)
def test_rotation_is_rigid_in_mm(angles, spacing, key):
    turn = rotation(torch.tensor([angles], dtype=torch.float64))[0]
    torch.testing.assert_close(turn @ turn.T, torch.eye(3, dtype=torch.float64))
    assert float(torch.linalg.det(turn)) == pytest.approx(1.0)
    drawn = Affine(1.0, 180.0, (0.5, 2.0)).sample(torch.tensor([key]), _grid(1, spacing=spacing)).matrix[0].double()
    mm = torch.tensor(spacing, dtype=torch.float64)
    in_mm = mm[:, None] * drawn / mm[None]
    zoom = float(torch.linalg.det(in_mm)) ** (-1 / 3)
    assert 0.499 < zoom < 2.001
    torch.testing.assert_close(in_mm @ in_mm.T * zoom**2, torch.eye(3, dtype=torch.float64), atol=1e-4, rtol=0)


def test_rotation_turns_x_towards_y_about_z():
    quarter = torch.tensor([[0.0, 0.0, math.pi / 2]])
    torch.testing.assert_close(rotation(quarter)[0] @ torch.tensor([1.0, 0.0, 0.0]), torch.tensor([0.0, 1.0, 0.0]))


def test_a_zoom_above_one_enlarges():
    x = torch.zeros(1, 1, 16, 16, 16)
    x[..., 4:12, 4:12, 4:12] = 1.0
    params = AffineParams(torch.tensor([True]), torch.eye(3)[None] / 1.5)
    assert Affine(1.0, 0.0, (1.0, 2.0)).apply(x, params).sum() > 2.5 * x.sum()


def test_affine_is_undone_by_its_inverse():
    head = torch.from_numpy(phantom(0, (32, 32, 32)).data)[None, None]
    smooth = torch.from_numpy(ndimage.gaussian_filter(head.numpy(), (0, 0, 1.5, 1.5, 1.5)))
    affine = Affine(1.0, 20.0, (0.9, 1.1))
    params = AffineParams(torch.tensor([True]), rotation(torch.tensor([[0.2, -0.3, 0.25]])) / 1.1)
    back = affine.apply(affine.apply(smooth, params), params.inverse())
    inner = (..., *[slice(8, 24)] * 3)
    moved = (affine.apply(smooth, params) - smooth)[inner].abs().mean()
    assert (back - smooth)[inner].abs().mean() < 0.2 * moved


@given(key=st.integers(-(2**63), 2**63 - 1), cells=st.integers(1, 5))
@settings(max_examples=25, deadline=None)
def test_the_strongest_elastic_field_does_not_fold(key, cells):
    shape = torch.Size((20, 16, 24))
    control = Elastic(1.0, cells, 0.4).sample(torch.tensor([key]), _grid(1, shape)).control
    grid = warp_grid(shape, torch.eye(3)[None], control)[0].double().flip(-1) * torch.tensor(shape) / 2
    steps = [
        grid.diff(dim=axis)[: -1 if axis != 0 else None, : -1 if axis != 1 else None, : -1 if axis != 2 else None]
        for axis in range(3)
    ]
    assert torch.linalg.det(torch.stack(steps, -1)).min() > 0


def test_elastic_that_could_fold_is_refused():
    with pytest.raises(ConfigError, match="amplitude"):
        Elastic(1.0, 4, 0.5)


def test_bspline_matrix_is_scipys():
    for size, cells in ((20, 4), (7, 3), (5, 1)):
        position = (np.arange(size) + 0.5) * cells / size
        slow = interpolate.BSpline.design_matrix(position, np.arange(-3.0, cells + 4), 3).toarray()
        np.testing.assert_allclose(bspline_matrix(size, cells, torch.zeros(())).numpy(), slow, atol=1e-6)


def test_gaussian_matrix_is_scipys_with_renormalised_edges():
    signal = np.random.default_rng(1).normal(size=(3, 40)).astype(np.float32)
    sigma = torch.tensor([0.5, 1.0, 2.0])
    matrices = gaussian_matrix(40, sigma).numpy()
    for row, s in enumerate(sigma.tolist()):
        weighted = ndimage.gaussian_filter1d(signal[row], s, mode="constant", truncate=6)
        slow = weighted / ndimage.gaussian_filter1d(np.ones(40), s, mode="constant", truncate=6)
        np.testing.assert_allclose(matrices[row] @ signal[row], slow, atol=1e-5)


@given(size=st.integers(4, 24), factor=st.floats(1.0, 4.0))
@settings(max_examples=50, deadline=None)
def test_thick_slices_are_means_joined_by_lines(size, factor):
    signal = np.random.default_rng(size).normal(size=size)
    fine = np.repeat(signal, 1000)
    edges = np.minimum(np.arange(0, math.ceil(size / factor - 1e-4) + 1) * factor, size)
    slices = [fine[round(a * 1000) : round(b * 1000)].mean() for a, b in itertools.pairwise(edges)]
    centres = (np.arange(len(slices)) + 0.5) * factor - 0.5
    slow = np.interp(np.arange(size), centres, slices)
    got = thick_slice_matrix(size, torch.tensor([factor]))[0].double().numpy() @ signal
    np.testing.assert_allclose(got, slow, atol=0.02)
    np.testing.assert_allclose(thick_slice_matrix(size, torch.tensor([factor]))[0].sum(1), 1.0, atol=1e-4)


def test_gamma_keeps_range_and_order_for_either_sign():
    x = _volumes() - 5.0
    out = _always("gamma").apply(x, GammaParams(torch.ones(3, dtype=torch.bool), torch.tensor([0.5, 1.0, 2.0])))
    torch.testing.assert_close(out.amin((1, 2, 3, 4)), x.amin((1, 2, 3, 4)))
    torch.testing.assert_close(out.amax((1, 2, 3, 4)), x.amax((1, 2, 3, 4)))
    order = x.flatten(1).argsort(1)
    assert (out.flatten(1).gather(1, order).diff(dim=1) >= -1e-4).all()


def test_gamma_of_a_constant_crop_is_that_crop():
    x = torch.full((1, 1, 4, 4, 4), -1.5)
    out = _always("gamma").apply(x, GammaParams(torch.tensor([True]), torch.tensor([0.7])))
    torch.testing.assert_close(out, x)


def test_bias_field_leaves_air_and_stays_within_its_gain():
    x = _volumes()
    low = x.amin((1, 2, 3, 4), keepdim=True)
    field = BiasField(1.0, 2, 0.5)
    out = field.apply(x, field.sample(torch.tensor([1, 2, 3]), _grid(3)))
    gain = ((out - low) / (x - low))[x > low]
    assert (out[x == low] == x[x == low]).all()
    assert gain.min() >= math.exp(-0.5) - 1e-3
    assert gain.max() <= math.exp(0.5) + 1e-3


def test_noise_has_its_standard_deviation_and_differs_by_voxel_and_sample():
    params = NoiseParams(torch.ones(2, dtype=torch.bool), torch.tensor([0.1, 0.3]), torch.tensor([1, 2]))
    noise = _always("noise").apply(torch.zeros(2, 2, 16, 16, 16), params)
    torch.testing.assert_close(noise.flatten(1).std(1), params.sigma, rtol=0.05, atol=0)
    assert noise.flatten(1).mean(1).abs().max() < 0.02
    assert abs(float(torch.corrcoef(noise.flatten(1))[0, 1])) < 0.05
    assert abs(float(torch.corrcoef(noise[0].flatten(1))[0, 1])) < 0.05


def test_frequencies_are_those_of_the_cosine_transform():
    weight = torch.rand(2, 11, dtype=torch.float64)
    x = np.random.default_rng(1).normal(size=11)
    for row, matrix in zip(weight.numpy(), filter_matrix(weight).numpy(), strict=True):
        np.testing.assert_allclose(matrix @ x, fft.idct(fft.dct(x, norm="ortho") * row, norm="ortho"), atol=1e-12)


def test_gibbs_drops_the_highest_frequencies_of_the_drawn_axes():
    x = _volumes(1)
    params = GibbsParams(torch.tensor([True]), torch.tensor([[1.0, 0.5, 1.0]]))
    out = _always("gibbs").apply(x, params)
    spectrum = fft.dct(x[0, 0].numpy(), axis=1, norm="ortho")
    spectrum[:, SHAPE[1] // 2 :] = 0.0
    np.testing.assert_allclose(out[0, 0].numpy(), fft.idct(spectrum, axis=1, norm="ortho"), atol=1e-5)
    # A measurement repeated is the same measurement.
    torch.testing.assert_close(_always("gibbs").apply(out, params), out, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(out.mean((3, 4)).mean(), x.mean((3, 4)).mean(), rtol=1e-4, atol=1e-6)


def test_gibbs_keeps_what_it_was_told_to():
    params = Gibbs(1.0, (0.5, 0.8), 0.25).sample(torch.arange(400), _grid(400))
    cut = params.keep < 1.0
    assert ((params.keep[cut] >= 0.5) & (params.keep[cut] <= 0.8)).all()
    assert set(cut.sum(1).tolist()) == {1, 3}
    assert 0.18 < (cut.sum(1) == 3).float().mean() < 0.32
    assert cut[cut.sum(1) == 1].any(0).all()


def test_a_displaced_head_is_where_it_was_moved_to():
    x = torch.from_numpy(phantom(0, (20, 24, 16)).data)[None, None].float()
    moved = displaced(x, torch.eye(3)[None], torch.tensor([[2.0, -3.0, 1.0]]))
    np.testing.assert_allclose(moved[0, 0, 2:, :-3, 1:], x[0, 0, :-2, 3:, :-1], atol=1e-3)


def test_motion_mixes_the_spectra_of_two_places():
    x = torch.from_numpy(phantom(0, (32, 24, 20)).data)[None, None].float()
    bands = torch.zeros(1, BANDS, dtype=torch.bool)
    bands[0, 4:9] = True
    shift, axis = torch.tensor([[0.0, 2.0, 1.0]]), torch.tensor([[True, False, False]])
    out = _always("motion").apply(x, MotionParams(torch.tensor([True]), torch.eye(3)[None], shift, axis, bands))
    before, after = (
        fft.dct(v[0, 0].double().numpy(), axis=0, norm="ortho") for v in (x, displaced(x, torch.eye(3)[None], shift))
    )
    before[8:18] = after[8:18]
    np.testing.assert_allclose(out[0, 0].numpy(), fft.idct(before, axis=0, norm="ortho"), atol=1e-2)


def test_motion_leaves_the_head_where_it_is():
    params = Motion(1.0, 4.0, 4.0).sample(torch.arange(200), _grid(200, spacing=(1.0, 2.0, 4.0)))
    assert not params.bands[:, 0].any()
    assert params.bands.any(1).all()
    assert (params.axis.sum(1) == 1).all()
    limits = torch.tensor([4.0, 2.0, 1.0])
    assert (params.shift.abs() <= limits).all()
    assert (params.shift.abs().amax(0) > limits * 0.8).all(), "in mm"
