"""Batches: what they hold, and that workers, batch sizes and restarts change nothing."""

import multiprocessing
import os
import pickle
import shutil
import signal
import sys
from collections import deque

import numpy as np
import pytest
import torch

from fomo_ssl.core.errors import ConfigError, RunError, StoreError
from fomo_ssl.core.types import ViewSpec
from fomo_ssl.corpus.codec import CHUNK, LEVELS, NOT_VALID, read_flagged
from fomo_ssl.corpus.layouts import ScanRow
from fomo_ssl.corpus.store import Store, StoreWriter
from fomo_ssl.data.augment import Augmenter
from fomo_ssl.data.batch import preview_batch
from fomo_ssl.data.index import ScanIndex
from fomo_ssl.data.loader import KEPT, choose_transport, make_loader
from fomo_ssl.data.sampling import Sampler
from fomo_ssl.imaging.canonical import CanonicalSpec, canonicalise
from fomo_ssl.synthetic.phantoms import phantom

CROP = (16, 24, 40)


@pytest.fixture
def sampler(index):
    return Sampler(index, np.arange(len(index)), ViewSpec(2, "session"), CROP, seed=0)


def _by_sample(loader):
    """Everything of every sample, by its number."""
    found = {}
    for batch in loader:
        for place, number in enumerate(batch.indices.tolist()):
            images = [image[place].clone() for image in batch.images]
            columns = [batch.scale, batch.offset, batch.origins, batch.rows, batch.sequences]
            found[number] = [
                *images,
                *(column[:, place] for column in columns),
                batch.keys[place],
                batch.spacing[place],
                batch.paired[place],
            ]
    return found


def _same(first, second):
    assert first.keys() == second.keys()
    for number in first:
        assert all(torch.equal(a, b) for a, b in zip(first[number], second[number], strict=True))


def _padded(store, row, origin, size):
    """The crop by the plainest means: pad the whole scan far enough, then cut."""
    volume = store.read(row)
    background = store.index.column("background")[row].as_py()
    far = 64
    padded = np.pad(volume, far, constant_values=background)
    return padded[tuple(slice(o + far, o + far + n) for o, n in zip(origin, size, strict=True))]


def test_a_batch_holds_the_crops_of_its_requests(store, index, sampler):
    batches = list(make_loader(store, sampler, batch_size=4, start=3, stop=16, workers=0))
    assert [batch.indices.tolist() for batch in batches] == [[3, 4, 5, 6], [7, 8, 9, 10], [11, 12, 13, 14], [15]]
    for batch in batches:
        for place, number in enumerate(batch.indices.tolist()):
            request = sampler.request(number)
            assert batch.keys[place] == request.key
            assert batch.paired[place] == request.paired
            assert batch.spacing[place].tolist() == index.spacing[request.rows[0]].tolist()
            for view, (row, origin) in enumerate(zip(request.rows, request.origins, strict=True)):
                assert batch.rows[view, place] == row
                assert tuple(batch.origins[view, place].tolist()) == origin
                assert batch.sequences[view, place] == index.sequence_class[row]
                np.testing.assert_array_equal(batch.images[view][place, 0], _padded(store, row, origin, CROP))


def test_normalised_views_have_the_statistics_of_the_scan(store, index):
    whole = tuple(index.shape[0].tolist())
    sampler = Sampler(index, np.array([0]), ViewSpec(), whole, seed=0)
    (batch,) = make_loader(store, sampler, batch_size=1, start=0, stop=1, workers=0)
    view = Augmenter("none")(batch).images[0]
    row = store.index.slice(0, 1).to_pylist()[0]
    expected = store.read(0) * np.float64(row["scale"]) + row["offset"]
    np.testing.assert_allclose(view[0, 0].numpy(), expected, atol=1e-5)
    assert view.min() >= (row["low"] - row["mean"]) / row["std"] - 1e-4
    assert view.max() <= (row["high"] - row["mean"]) / row["std"] + 1e-4


def test_workers_and_batch_sizes_change_nothing(store, sampler):
    alone = _by_sample(make_loader(store, sampler, batch_size=4, start=0, stop=22, workers=0))
    for workers, batch_size in ((1, 4), (2, 4), (4, 4), (2, 3)):
        loader = make_loader(store, sampler, batch_size=batch_size, start=0, stop=22, workers=workers)
        assert len(loader) == -(-22 // batch_size)
        numbers = [number for batch in loader for number in batch.indices.tolist()]
        assert numbers == list(range(22))
        _same(alone, _by_sample(loader))


def test_several_crops_of_a_scan_change_neither_order_nor_content(store, index):
    sampler = Sampler(index, np.arange(len(index)), ViewSpec(2, "session"), CROP, seed=0, crops_per_scan=3)
    alone = _by_sample(make_loader(store, sampler, batch_size=1, start=0, stop=22, workers=0))
    for number, (*images, _, _, _, _, _, _, _, _) in alone.items():
        request = sampler.request(number)
        for image, row, origin in zip(images, request.rows, request.origins, strict=True):
            np.testing.assert_array_equal(image[0], _padded(store, row, origin, CROP))
    for workers, batch_size in ((0, 7), (2, 4), (2, 6)):
        _same(alone, _by_sample(make_loader(store, sampler, batch_size=batch_size, start=0, stop=22, workers=workers)))
    _same(
        {number: alone[number] for number in range(7, 22)},
        _by_sample(make_loader(store, sampler, batch_size=4, start=7, stop=22, workers=0)),
    )


def test_a_scan_damaged_in_part_is_judged_crop_by_crop(tmp_path):
    """What a sample gets must not depend on the others of its batch, which are read along with it."""
    with StoreWriter.create(tmp_path / "store", CanonicalSpec(spacing=None)) as writer:
        for number in range(2):
            volume = canonicalise(phantom(number, (100, 24, 24)), CanonicalSpec(None))
            writer.add(ScanRow("A", f"sub_{number}", "ses_1", "t1", f"{number}"), volume)
    store = Store.open(tmp_path / "store")
    index = ScanIndex.of(store)
    assert index.shape[0, 0] > CHUNK
    content = bytearray(_file(store, 0).read_bytes())
    half = len(content) // 2
    content[half : half + 200] = bytes(200)
    _file(store, 0).write_bytes(content)
    sampler = Sampler(index, np.arange(2), ViewSpec(), (16, 16, 16), seed=0, crops_per_scan=4)
    results = []
    for batch_size in (1, 3, 8):
        met = []
        loader = make_loader(
            store, sampler, batch_size=batch_size, start=0, stop=48, workers=0, on_unreadable=met.append
        )
        found = _by_sample(loader)
        lost = {scan.sample for scan in met}
        asked = {number for number in range(48) if sampler.request(number).rows == (0,)}
        assert set() < lost < asked
        results.append((found, lost))
    for found, lost in results[1:]:
        _same(results[0][0], found)
        assert lost == results[0][1]


def test_a_restart_goes_on_where_it_was(store, sampler):
    whole = _by_sample(make_loader(store, sampler, batch_size=4, start=0, stop=30, workers=0))
    for start in (1, 8, 29):
        rest = _by_sample(make_loader(store, sampler, batch_size=4, start=start, stop=30, workers=0))
        _same({number: whole[number] for number in range(start, 30)}, rest)


def test_an_empty_range_has_no_batches(store, sampler):
    loader = make_loader(store, sampler, batch_size=4, start=7, stop=7, workers=0)
    assert len(loader) == 0
    assert list(loader) == []


def test_what_a_worker_gets_can_be_sent_to_another_process(store, sampler):
    loader = make_loader(store, sampler, batch_size=4, start=0, stop=4, workers=0)
    sent = pickle.loads(pickle.dumps(loader.dataset))
    np.testing.assert_array_equal(sent[0].images[0], loader.dataset[0].images[0])


@pytest.mark.parametrize("transport", ["ring", "queue", "spawn"])
def test_every_transport_gives_the_batches_of_a_single_process(broken, sampler, transport):
    """The same bytes and the same scans reported, with one scan that is gone."""
    _file(broken, sampler.request(3).rows[0]).unlink()
    results = []
    for settings in ({"workers": 0}, {"workers": 2, "transport": transport}):
        met = []
        loader = make_loader(broken, sampler, batch_size=4, start=0, stop=22, on_unreadable=met.append, **settings)
        assert loader.uses_ring == (settings.get("transport") == "ring")
        results.append((_by_sample(loader), {(scan.sample, str(scan.error)) for scan in met}))
    (alone, lost), (found, also_lost) = results
    _same(alone, found)
    assert lost == also_lost
    assert 3 in {sample for sample, _ in lost}


def test_transports_that_fork_are_refused_where_that_is_not_safe(monkeypatch):
    assert [choose_transport(asked) for asked in ("auto", "ring", "queue", "spawn")] == [
        "ring",
        "ring",
        "queue",
        "spawn",
    ]
    monkeypatch.setattr(sys, "platform", "darwin")
    assert [choose_transport(asked) for asked in ("auto", "spawn")] == ["spawn", "spawn"]
    for transport in ("ring", "queue"):
        with pytest.raises(ConfigError, match=f"data.transport={transport} forks.*data.transport=auto"):
            choose_transport(transport)


def test_reading_leaves_the_global_generators_alone(store, sampler):
    state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    list(make_loader(store, sampler, batch_size=4, start=0, stop=8, workers=1))
    assert torch.equal(state, torch.get_rng_state())
    assert (numpy_state == np.random.get_state()[1]).all()


def test_the_newest_batches_of_workers_stay_as_they_are(store, index, sampler):
    kept = deque(maxlen=KEPT)
    for batch in make_loader(store, sampler, batch_size=2, start=0, stop=80, workers=2):
        kept.append(batch)
        for old in kept:
            for place, request in enumerate(map(sampler.request, old.indices.tolist())):
                for view, (row, origin) in enumerate(zip(request.rows, request.origins, strict=True)):
                    np.testing.assert_array_equal(old.images[view][place, 0], store.read_crop(row, origin, CROP))


@pytest.fixture
def broken(store, tmp_path):
    shutil.copytree(store.path, tmp_path / "store")
    return Store.open(tmp_path / "store")


def _file(store, row):
    return store.path / store.index.column("file")[row].as_py()


class _Driver:
    """The part of a GPU's driver that page-locks: it knows ranges by address, and refuses those that it has."""

    def __init__(self) -> None:
        self.locked: dict[int, int] = {}

    def cudaHostRegister(self, address: int, size: int, flags: int) -> int:
        if any(address < start + length and start < address + size for start, length in self.locked.items()):
            return 712
        self.locked[address] = size
        return 0

    def cudaHostUnregister(self, address: int) -> int:
        del self.locked[address]
        return 0


@pytest.fixture
def driver(monkeypatch):
    made = _Driver()

    def check(code):
        if code:
            raise RuntimeError(f"CUDA error {code}\nand a second line")

    monkeypatch.setattr(torch.cuda, "cudart", lambda: made)
    monkeypatch.setattr(torch.cuda, "check_error", check)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    return made


def test_memory_is_locked_no_longer_than_batches_are_read(store, sampler, driver):
    loader = make_loader(store, sampler, batch_size=2, start=0, stop=6, workers=1, pin_memory=True)
    for _ in loader:
        assert len(driver.locked) == 1
    assert not driver.locked
    unfinished = iter(loader)
    next(unfinished)
    assert len(driver.locked) == 1
    del unfinished
    assert not driver.locked


def test_memory_that_cannot_be_locked_is_one_line(store, sampler, driver, monkeypatch):
    monkeypatch.setattr(driver, "cudaHostRegister", lambda *_: 2)
    loader = make_loader(store, sampler, batch_size=2, start=0, stop=6, workers=1, pin_memory=True)
    with pytest.raises(RunError, match=r"cannot be page-locked \(CUDA error 2\).*data.workers") as error:
        next(iter(loader))
    assert "\n" not in str(error.value)


def test_a_scan_that_went_missing_is_reported_and_replaced(broken, sampler):
    whole = _by_sample(make_loader(broken, sampler, batch_size=2, start=0, stop=40, workers=0))
    row = sampler.request(9).rows[0]
    lost = _file(broken, row)
    lost.write_bytes(lost.read_bytes()[:100])
    asked = {i for i in range(40) if row in sampler.request(i).rows}
    assert {9} < asked < set(range(40))
    seen = []
    for workers in (0, 2):
        met = []
        loader = make_loader(broken, sampler, batch_size=2, start=0, stop=40, workers=workers, on_unreadable=met.append)
        found = _by_sample(loader)
        assert {scan.sample for scan in met} == asked
        assert all(lost.name in str(scan.error) and scan.error.way_out for scan in met)
        _same({i: whole[i] for i in whole if i not in asked}, {i: found[i] for i in found if i not in asked})
        assert all(row not in found[i][2 + 3].tolist() for i in asked)
        # The random key, and so masks and augmentation, stay those of the sample.
        assert all(found[i][-3] == whole[i][-3] for i in asked)
        seen.append(found)
    _same(*seen)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_store_without_scans_ends_the_loop(broken, sampler, workers):
    for row in range(len(broken)):
        _file(broken, row).unlink()
    with pytest.raises(StoreError, match="in a row cannot be read") as caught:
        list(make_loader(broken, sampler, batch_size=2, start=0, stop=20, workers=workers))
    assert "Traceback" not in str(caught.value)
    assert caught.value.way_out


def _begin_and_kill(store, sampler, how: signal.Signals):
    """The batches of a loader that has begun, one of whose own workers is killed: a test before may have left some."""
    others = set(multiprocessing.active_children())
    batches = iter(make_loader(store, sampler, batch_size=2, start=0, stop=2000, workers=2))
    next(batches)
    os.kill((set(multiprocessing.active_children()) - others).pop().pid, how)
    return batches


def test_a_killed_worker_ends_in_one_line(store, sampler):
    batches = _begin_and_kill(store, sampler, signal.SIGKILL)
    with pytest.raises(RunError, match="a loader process died") as caught:
        list(batches)
    assert "resume=auto" in caught.value.way_out


def test_a_worker_that_the_disk_fails_under_is_not_called_out_of_memory(store, sampler):
    """Mapped files answer a failing disk with SIGBUS."""
    batches = _begin_and_kill(store, sampler, signal.SIGBUS)
    with pytest.raises(RunError, match=r"Bus error\); the disk failed, or a scan file was cut short") as caught:
        list(batches)
    assert "memory" not in str(caught.value)


def test_previews_are_the_same_centre_crops_every_time(store, index):
    rows = np.array([4, 0, 9])
    sampler = Sampler(index, np.arange(len(index)), ViewSpec(n=2, pairing="overlap"), CROP, seed=0)
    first, again = (preview_batch(store, sampler, rows) for _ in range(2))
    assert first.paired.all()
    assert all(torch.equal(a, b) for a, b in zip(first.images, again.images, strict=True))
    assert first.rows.tolist() == [rows.tolist()] * 2
    centre = first.origins[0].numpy() + np.array(CROP) / 2
    middle = (index.box_lo[rows] + index.box_hi[rows]) / 2
    shape_middle = index.shape[rows] / 2
    expected = np.where(index.shape[rows] > np.array(CROP), middle, shape_middle)
    assert np.abs(centre - expected).max() <= 2


def test_previews_of_pairs_show_the_second_sequence_where_there_is_one(store, index):
    rows = np.arange(len(index))
    batch = preview_batch(store, Sampler(index, rows, ViewSpec(n=2, pairing="session"), CROP, seed=0), rows)
    first, second = batch.rows.numpy()
    assert np.array_equal(first, rows)
    found = batch.paired.numpy()
    assert found.sum() > 0
    assert np.array_equal(found, first != second)
    assert np.array_equal(index.session[first], index.session[second])
    alone = preview_batch(store, Sampler(index, rows[:1], ViewSpec(n=2, pairing="session"), CROP, seed=0), rows[:1])
    assert alone.rows.tolist() == [[0], [0]]
    assert not alone.paired.any()


def test_a_batch_moves_as_one(store, sampler):
    (batch,) = make_loader(store, sampler, batch_size=2, start=0, stop=2, workers=0)
    moved = batch.to("meta")
    assert {image.device.type for image in moved.images} == {moved.keys.device.type} == {"meta"}


@pytest.fixture(scope="module")
def masked(tmp_path_factory) -> Store:
    """Three scans, the last two of which have a corner that does not count."""
    with StoreWriter.create(tmp_path_factory.mktemp("masked"), CanonicalSpec(spacing=None)) as writer:
        for number in range(3):
            volume = phantom(number, (24, 26, 22))
            counts = np.ones(volume.data.shape, bool)
            counts[: 8 * number, :, :12] = False
            row = ScanRow("A", f"sub_{number}", "ses_1", "t1", f"{number}")
            writer.add(row, canonicalise(volume, CanonicalSpec(None), counts if number else None))
    return Store.open(writer.path)


@pytest.mark.parametrize("workers", [0, 2])
def test_voxels_that_do_not_count_are_flagged_for_who_asks(masked, workers):
    index = ScanIndex.of(masked)
    assert index.flagged.tolist() == [False, True, True]
    loaders = {
        valid: make_loader(
            masked,
            Sampler(index, np.arange(3), ViewSpec(2, "overlap", valid=valid), CROP, seed=0),
            batch_size=1,
            start=0,
            stop=12,
            workers=workers,
        )
        for valid in (True, False)
    }
    for asked, plain in zip(loaders[True], loaders[False], strict=True):
        assert not plain.flagged
        assert asked.flagged == index.flagged[asked.rows].any()
        for view in range(2):
            assert torch.equal(asked.images[view] & LEVELS, plain.images[view])
            row, origin = int(asked.rows[view, 0]), asked.origins[view, 0].tolist()
            counts = np.pad(read_flagged(_file(masked, row)) < NOT_VALID, 64, constant_values=True)
            cut = counts[tuple(slice(o + 64, o + 64 + n) for o, n in zip(origin, CROP, strict=True))]
            np.testing.assert_array_equal(asked.images[view][0, 0].numpy() < NOT_VALID, cut)


def test_previews_are_flagged_too(masked):
    index = ScanIndex.of(masked)
    samplers = [Sampler(index, np.arange(len(index)), ViewSpec(valid=valid), CROP, seed=0) for valid in (True, False)]
    asked, plain = (preview_batch(masked, sampler, np.array([0, 2])) for sampler in samplers)
    assert (asked.flagged, plain.flagged) == (True, False)
    assert (asked.images[0] >= NOT_VALID).flatten(1).any(1).tolist() == [False, True]
    assert torch.equal(asked.images[0] & LEVELS, plain.images[0])


@pytest.mark.parametrize("transport", ["ring", "queue"])
def test_batches_do_not_need_room_in_dev_shm(store, own_mounts, transport):
    """Batches of 4 MB, with 64 kB of /dev/shm: what a container without --shm-size may have even less of."""
    code = (
        "import sys, numpy as np\n"
        "from fomo_ssl.core.types import ViewSpec\n"
        "from fomo_ssl.corpus.store import Store\n"
        "from fomo_ssl.data.index import ScanIndex\n"
        "from fomo_ssl.data.loader import make_loader\n"
        "from fomo_ssl.data.sampling import Sampler\n"
        "store = Store.open(sys.argv[1])\n"
        "index = ScanIndex.of(store)\n"
        "sampler = Sampler(index, np.arange(len(index)), ViewSpec(2, 'overlap'), (64, 64, 64), seed=0)\n"
        "batches = make_loader(store, sampler, batch_size=4, start=0, stop=40, workers=2, transport=sys.argv[2])\n"
        "print(sum(len(batch) for batch in batches))\n"
    )
    script = 'mount -t tmpfs -o size=64k tmpfs /dev/shm && "$1" -c "$2" "$3" "$4"'
    done = own_mounts(script, sys.executable, code, store.path, transport)
    assert done.stdout.strip() == "40", done.stderr


@pytest.mark.parametrize("workers", [0, 2])
def test_a_scan_that_goes_missing_while_batches_are_read_is_replaced(broken, sampler, workers):
    met = []
    loader = make_loader(broken, sampler, batch_size=2, start=0, stop=80, workers=workers, on_unreadable=met.append)
    batches = iter(loader)
    found = [next(batches)]
    gone, cut = _file(broken, 0), _file(broken, 3)
    gone.unlink()
    cut.write_bytes(cut.read_bytes()[:100])
    found += list(batches)
    assert [number for batch in found for number in batch.indices.tolist()] == list(range(80))
    assert {scan.error.where for scan in met} == {str(gone), str(cut)}
    # Workers had read some batches ahead; from there on nobody got a crop of the two.
    assert all(row not in batch.rows for batch in found[10:] for row in (0, 3))
