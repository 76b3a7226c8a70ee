"""A downstream task: cases with images and a label, from any of the layouts in `layouts`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Literal, TypeVar

from fomo_ssl.core.errors import TaskError
from fomo_ssl.downstream.labels import KINDS as KINDS
from fomo_ssl.downstream.labels import Kind as Kind
from fomo_ssl.downstream.labels import Label, check_class, count_classes, infer_kind, parse_label

Missing = Literal["error", "skip", "zeros"]
_Word = TypeVar("_Word", bound=str)
# Susceptibility contrast comes as either; where a model takes one of them, a session offers whichever it has.
_TWINS = {"swi": "t2s", "t2s": "swi"}
MISSING: tuple[Missing, ...] = ("error", "skip", "zeros")


@dataclass(frozen=True)
class Case:
    """One subject and session of a task.

    Attributes:
        name: unique in the task.
        images: path by entry of the task's `sequences`; an entry without a file is absent (policy `zeros`).
        label: mask path for segmentation, class index for classification, number for regression.
        dataset: where the case comes from, for results within each dataset; "" where nothing says.
    """

    name: str
    subject: str
    session: str
    images: Mapping[str, Path]
    label: Label
    dataset: str = ""


@dataclass(frozen=True)
class Task:
    """What to predict from what, and the cases, sorted by name.

    Attributes:
        sequences: channels in order; `swi|t2s` takes the first of the two that a session has.
        classes: number of classes (segmentation: with the background); 1 for regression.
        missing: what happened to sessions that lack a sequence.
        notes: what was inferred or left out, for the user to read.
        root: folder or table that it was read from.
    """

    name: str
    kind: Kind
    sequences: tuple[str, ...]
    cases: tuple[Case, ...]
    classes: int
    missing: Missing = "error"
    notes: tuple[str, ...] = ()
    root: Path | None = None

    def __getitem__(self, name: str) -> Case:
        return self._by_name[name]

    @cached_property
    def _by_name(self) -> dict[str, Case]:
        return {case.name: case for case in self.cases}

    @property
    def labels(self) -> list[Label]:
        """The label of every case, in order."""
        return [case.label for case in self.cases]


@dataclass(frozen=True)
class RawCase:
    """A case as a layout found it: every sequence on disk, and the label as text or as the path of a mask."""

    subject: str
    session: str
    images: Mapping[str, Path]
    label: Path | str
    dataset: str = ""

    @property
    def name(self) -> str:
        return "_".join(part for part in (self.subject, self.session) if part)


@dataclass(frozen=True)
class RawTask:
    """A task as a layout found it; `None` and empty where the layout does not say."""

    name: str
    root: Path
    cases: Sequence[RawCase]
    kind: str | None = None
    sequences: Sequence[str] | None = None
    missing: str | None = None
    classes: int | None = None
    notes: tuple[str, ...] = ()


def load_task(
    path: str | Path,
    *,
    kind: str | None = None,
    sequences: Sequence[str] | None = None,
    missing: str | None = None,
) -> Task:
    """Read a task from a folder (FOMO task layout, nnU-Net raw dataset) or a CSV table.

    Args:
        path: folder or `.csv` file.
        kind, sequences, missing: instead of what `task.yaml` says or the labels show.

    Raises:
        TaskError: nothing there, no labels, a label that cannot be read, a sequence missing under policy `error`.
    """
    from fomo_ssl.downstream.layouts import read_layout

    raw = read_layout(Path(path), kind)
    if not raw.cases:
        raise TaskError("no case with an image and a label", where=raw.root, way_out="Labels go to labels/sub_X/ses_1/")
    notes = list(raw.notes)
    of_kind = _choose("kind", kind or raw.kind, KINDS, raw.root)
    if of_kind is None:
        of_kind = infer_kind([case.label for case in raw.cases])
        notes.append(f"kind {of_kind} inferred from the labels")
    policy: Missing = _choose("missing", missing or raw.missing, MISSING, raw.root) or "error"
    entries = tuple(sequences or raw.sequences or sorted({name for case in raw.cases for name in case.images}))
    chosen = [_choose_images(case, entries, policy, raw.root) for case in raw.cases]
    kept = [(case, images) for case, images in zip(raw.cases, chosen, strict=True) if images is not None]
    if len(kept) < len(raw.cases):
        notes.append(f"{len(raw.cases) - len(kept)} sessions without all of {', '.join(entries)} were skipped")
    if not kept:
        raise TaskError(f"no session has any of {', '.join(entries)}", where=raw.root, way_out="Set sequences=[…]")
    cases = [
        Case(case.name, case.subject, case.session, images, parse_label(case.label, of_kind, raw.root), case.dataset)
        for case, images in kept
    ]
    cases.sort(key=lambda case: case.name)
    _check_unique(cases, raw.root)
    classes = raw.classes or count_classes([case.label for case in cases], of_kind)
    for case in cases if of_kind == "classification" else ():
        check_class(int(case.label), classes, raw.root / case.name)  # type: ignore[arg-type]
    return Task(raw.name, of_kind, entries, tuple(cases), classes, policy, tuple(notes), raw.root)


def find_kind(path: str | Path) -> Kind:
    """The kind that `task.yaml` or the layout states, else the one the labels show; images are not looked at.

    Raises:
        TaskError: no task there, or no labels.
    """
    from fomo_ssl.downstream.layouts import read_layout

    raw = read_layout(Path(path))
    return _choose("kind", raw.kind, KINDS, raw.root) or infer_kind([case.label for case in raw.cases])


def alternatives(channel: str, channels: Sequence[str]) -> list[str]:
    """Sequence names that may fill a channel, the preferred first: `swi|t2s` says so itself, `swi` implies `t2s`."""
    names = channel.split("|")
    taken = {name for other in channels if other != channel for name in other.split("|")}
    twin = _TWINS.get(channel)
    return [*names, twin] if twin and twin not in taken else names


def choose_sequence(entry: str, present: Mapping[str, Path]) -> Path | None:
    """The file of a channel: the first alternative of `swi|t2s` that is there."""
    return next((present[name] for name in entry.split("|") if name in present), None)


def _choose_images(case: RawCase, entries: Sequence[str], policy: Missing, root: Path) -> dict[str, Path] | None:
    found = {entry: choose_sequence(entry, case.images) for entry in entries}
    images = {entry: path for entry, path in found.items() if path is not None}
    if len(images) == len(entries):
        return images
    if policy == "error":
        lacking = ", ".join(entry for entry in entries if entry not in images)
        raise TaskError(
            f"{case.name} has no {lacking}; the policy for missing sequences is error",
            where=root,
            way_out="Set missing=skip, missing=zeros or sequences=[…]",
        )
    return images if policy == "zeros" and images else None


def _choose(name: str, value: str | None, allowed: tuple[_Word, ...], root: Path) -> _Word | None:
    if value is None:
        return None
    if value not in allowed:
        raise TaskError(f"{name} {value!r} is not known", where=root, way_out=f"Choose one of {', '.join(allowed)}")
    return allowed[allowed.index(value)]


def _check_unique(cases: Sequence[Case], root: Path) -> None:
    for first, second in pairwise(cases):
        if first.name == second.name:
            raise TaskError(
                f"two cases are called {first.name}",
                where=root,
                way_out="Tell them apart by columns subject and session",
            )
