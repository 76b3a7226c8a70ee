import numpy as np

from fomo_ssl.corpus.descriptor import KEPT, reorientation
from fomo_ssl.corpus.orientation_check import ENOUGH, _classes, check_orientation

UPSIDE_DOWN, MIRRORED = ((0, 1, 2), (False, True, True)), ((0, 1, 2), (True, False, False))


def corpus(n: int) -> np.ndarray:
    """Descriptors with something in common that is symmetric from left to right, as heads are."""
    rng = np.random.default_rng(0)
    common = rng.normal(size=KEPT**3)
    _, signs = reorientation(*MIRRORED)
    common += common * signs
    made = common + rng.normal(size=(n, KEPT**3))
    return (made / np.linalg.norm(made, axis=1, keepdims=True)).astype(np.float16)


def turn(descriptor: np.ndarray, order: tuple, flips: tuple) -> np.ndarray:
    positions, signs = reorientation(order, flips)
    return descriptor[positions] * signs.astype(np.float16)


def numbers(n: int) -> tuple[np.ndarray, np.ndarray]:
    return np.arange(n) // 20, np.arange(n)


def test_turned_scans_are_doubted_and_what_they_look_like_is_named():
    made = corpus(60)
    made[7] = turn(made[7], *UPSIDE_DOWN)
    made[33] = turn(made[33], (0, 2, 1), (False, False, False))
    made[50] = turn(made[50], *MIRRORED)
    said = check_orientation(made, *numbers(60))
    assert np.flatnonzero(said.doubted).tolist() == [7, 33]
    assert [said.looks[row] for row in (0, 7, 33, 50)] == ["LR A S", "LR P I", "LR S A", "LR A S"]


def test_a_dataset_that_is_wrong_as_a_whole_is_found():
    made = corpus(100)
    made[20:40] = [turn(one, *UPSIDE_DOWN) for one in made[20:40]]
    doubted = check_orientation(made, *numbers(100)).doubted
    assert np.flatnonzero(doubted).tolist() == list(range(20, 40))


def test_too_few_subjects_say_nothing():
    said = check_orientation(corpus(ENOUGH), *numbers(ENOUGH))
    assert np.isnan(said.lead).all()
    assert not said.doubted.any()


def test_24_kinds_of_orientation_and_the_stored_one_is_first():
    classes, names = _classes()
    assert sorted(set(classes)) == list(range(24))
    assert names[0] == "LR A S"
    assert all(classes.count(kind) == 2 for kind in range(24))
