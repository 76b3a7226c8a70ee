"""Which labels of a store a run can be probed for, and the scores of its embeddings on them."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float64, Int64, UInt64

from fomo_ssl.core.types import SEQUENCES
from fomo_ssl.corpus.store import Store
from fomo_ssl.training.probing import Kind, probe

MIN_SUBJECTS = 5
"""Subjects that a class, or a number, needs on either side; rarer classes are left out."""


@dataclass(frozen=True)
class Label:
    """A column of the store as numbers over the n chosen scans, NaN where it is not known."""

    name: str
    kind: Kind
    values: Float64[np.ndarray, "n"]


@dataclass(frozen=True)
class Probes:
    """Scores of n scans' embeddings, each label fitted on the training subjects and scored on the held-out ones.

    Attributes:
        labels: what may be probed.
        subjects: of each scan.
        held_out: whether a scan's subject is held out; no subject is on both sides.
    """

    labels: tuple[Label, ...]
    subjects: UInt64[np.ndarray, "n"]
    held_out: Bool[np.ndarray, "n"]

    @classmethod
    def of(
        cls,
        store: Store,
        rows: Int64[np.ndarray, "n"],
        subjects: UInt64[np.ndarray, "n"],
        held_out: Bool[np.ndarray, "n"],
    ) -> "Probes":
        """Sequence class, sex and age of the given rows of a store."""

        def column(name: str, number: Callable[[str | float], float]) -> Float64[np.ndarray, "n"]:
            cells = store.index.column(name).take(rows).to_pylist()
            return np.array([np.nan if cell is None else number(cell) for cell in cells], dtype=np.float64)

        other = SEQUENCES.index("other")
        labels = (
            Label("sequence", "classification", column("sequence_class", lambda k: np.nan if k == other else float(k))),
            Label("sex", "classification", column("sex", lambda sex: {"F": 0.0, "M": 1.0}.get(str(sex), np.nan))),
            Label("age", "regression", column("age", float)),
        )
        return cls(labels, subjects, held_out)

    def lacking(self) -> list[str]:
        """Names of the labels that too few subjects have."""
        everything = np.arange(len(self.subjects))
        return [label.name for label in self.labels if not self._usable(label, everything).any()]

    def scores(self, embeddings: Float[np.ndarray, "k e"], places: Int64[np.ndarray, "k"]) -> dict[str, float]:
        """`probe/<label>_<score>` of `training.probing.probe` for every label that enough of the scans have.

        Args:
            embeddings: of some of the scans.
            places: which of the n scans these are.
        """
        found: dict[str, float] = {}
        for label in self.labels:
            usable = self._usable(label, places)
            fit, test = usable & ~self.held_out[places], usable & self.held_out[places]
            if usable.any():
                values = label.values[places]
                scores = probe(embeddings[fit], values[fit], embeddings[test], values[test], label.kind)
                found |= {f"probe/{label.name}_{name}": score for name, score in scores.items()}
        return found

    def _usable(self, label: Label, places: Int64[np.ndarray, "k"]) -> Bool[np.ndarray, "k"]:
        """The scans of the classes that enough subjects have on either side; none where no probe is possible."""
        values, subjects, held_out = label.values[places], self.subjects[places], self.held_out[places]
        known = np.isfinite(values)

        def enough(scans: Bool[np.ndarray, "k"]) -> bool:
            return all(len(np.unique(subjects[scans & (held_out == side)])) >= MIN_SUBJECTS for side in (False, True))

        usable: Bool[np.ndarray, "k"]
        if label.kind == "regression":
            usable = known & enough(known)
        else:
            classes = [c for c in np.unique(values[known]) if enough(values == c)]
            usable = np.isin(values, classes) & (len(classes) > 1)
        return usable
