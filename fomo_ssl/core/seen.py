"""Which subjects and files a pretraining drew from, as digests: enough to recognise one, too little to name it."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Int64

JOIN = "\x1f"
"""Between names that together name something: the unit separator of ASCII, which no name holds."""

How = Literal["subject", "file"]


@dataclass(frozen=True)
class SeenData:
    """Sorted 64-bit digests, without repetition.

    Attributes:
        subjects: `subject_id` of each subject, as signed numbers.
        files: `file_id` of each file that a scan was made from.
        complete: False where training began from weights that do not say what they had seen.
    """

    subjects: Int64[np.ndarray, "s"]
    files: Int64[np.ndarray, "f"]
    complete: bool = True

    def recognise(self, dataset: str, subject: str, digests: Iterable[str]) -> How | None:
        """Whether this is one of the subjects, or one of the files is byte for byte one of theirs; None says no.

        A subject without a dataset is recognised by files alone: every corpus has a `sub_1`. Files that were written
        anew, cropped or converted are other files.

        Args:
            dataset, subject: names, as the corpus has them.
            digests: of the bytes of the subject's files, hexadecimal.
        """
        if dataset and _holds(self.subjects, np.uint64(subject_id(dataset, subject)).astype(np.int64)):
            return "subject"
        return "file" if any(_holds(self.files, file_id(digest)) for digest in digests) else None


def subject_id(dataset: str, subject: str) -> int:
    """A subject's 64 bits: of nothing but the two names, so that it is the same in every store."""
    return int.from_bytes(hashlib.blake2b(f"{dataset}{JOIN}{subject}".encode(), digest_size=8).digest(), "little")


def file_id(digest: str) -> np.int64:
    """The first 64 bits of a hexadecimal digest."""
    return np.uint64(int(digest[:16], 16)).astype(np.int64)


def _holds(known: Int64[np.ndarray, "_"], value: np.int64) -> bool:
    place = int(np.searchsorted(known, value))
    return place < len(known) and bool(known[place] == value)
