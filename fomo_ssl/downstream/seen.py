"""Cases of a task whose subject the encoder was pretrained on: without labels, but a new subject is another matter."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fomo_ssl.bundle import load_seen
from fomo_ssl.core.seen import How
from fomo_ssl.downstream.splits import Split
from fomo_ssl.downstream.tasks import Case


@dataclass(frozen=True)
class SeenCases:
    """The cases of a task that were seen in pretraining.

    Attributes:
        cases: how each is recognised, by name.
        complete: False where the encoder began from weights that do not say what they had seen.
    """

    cases: Mapping[str, How]
    complete: bool

    def beside(self, before: Mapping[str, Any] | None) -> "SeenCases":
        """With those that a run recorded before: it may be continued with some of its splits."""
        return replace(self, cases={**(before or {}).get("cases", {}), **self.cases})


def find_seen(cases: Sequence[Case], digests: Mapping[Path, str], bundle: Path) -> SeenCases | None:
    """Those of some cases that were seen in pretraining; None where the bundle does not say what it was trained on.

    A case is recognised by dataset and subject where the task names datasets, else by the digests of its files.

    Raises:
        BundleError: the bundle is damaged.
    """
    known = load_seen(bundle)
    if known is None:
        return None
    found = {}
    for case in cases:
        how = known.recognise(case.dataset, case.subject, [digests[path] for path in case.images.values()])
        if how is not None:
            found[case.name] = how
    return SeenCases(found, known.complete)


def to_line(task: str, splits: Sequence[Split], seen: SeenCases) -> str:
    """What to say of it: a sentence."""
    test = {name for split in splits for name in split.test}
    train = {name for split in splits for name in (*split.train, *split.validation)}
    counts = [f"{len(names & seen.cases.keys())} of {len(names)}" for names in (test, train)]
    what = f"{counts[0]} test cases and {counts[1]} training cases are of subjects that the encoder was pretrained on"
    return f"{task}: {what}, without labels (run.json names them)"
