import hashlib

import numpy as np

from fomo_ssl.core.seen import SeenData, file_id, subject_id

DIGESTS = [hashlib.blake2b(name.encode(), digest_size=16).hexdigest() for name in "abcdef"]


def seen(subjects: list[tuple[str, str]], digests: list[str]) -> SeenData:
    numbers = np.array([subject_id(*pair) for pair in subjects], dtype=np.uint64).view(np.int64)
    return SeenData(np.sort(numbers), np.sort(np.array([file_id(digest) for digest in digests], dtype=np.int64)))


def test_by_dataset_and_subject_or_by_a_file() -> None:
    known = seen([("OASIS", f"sub_{i}") for i in range(50)], DIGESTS[:3])
    for i in range(50):
        assert known.recognise("OASIS", f"sub_{i}", []) == "subject"
    assert known.recognise("OASIS", "sub_50", []) is None
    assert known.recognise("IXI", "sub_1", []) is None
    assert known.recognise("IXI", "sub_1", [DIGESTS[5], DIGESTS[2]]) == "file"
    assert known.recognise("IXI", "sub_1", DIGESTS[3:]) is None


def test_a_subject_without_a_dataset_is_any_sub_1() -> None:
    known = seen([("", "sub_1")], [])
    assert known.recognise("", "sub_1", [DIGESTS[0]]) is None


def test_names_do_not_run_together() -> None:
    assert subject_id("a", "bc") != subject_id("ab", "c")
