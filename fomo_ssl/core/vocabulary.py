"""Words that need no torch, so that preprocessing workers start without it: triples, classes of sequences."""

Triple = tuple[int, int, int]
Spacing = tuple[float, float, float]

SEQUENCES = ("other", "t1", "t1c", "t2", "t2s", "flair", "pd", "swi", "dwi", "adc", "mra")
"""Sequence classes; a sequence index is a position in this tuple. `dwi_b0` and `dwi_b1000` are of class `dwi`."""


def sequence_class(sequence: str) -> str:
    """The class of a sequence name: `dwi_b1000` -> `dwi`; an unknown name -> `other`."""
    base = sequence.lower().split("_")[0]
    return base if base in SEQUENCES else "other"
