"""What FOMO25 asks of a container: three tasks, their flags, and what is written.

The facts are those of the organisers' container template and validator (github.com/fomo25/container-validator).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fomo_ssl.core.errors import TaskError
from fomo_ssl.downstream.tasks import Kind, alternatives

TIME_LIMIT = 120.0
"""Seconds a case; the organisers' machine has an 80 GB H100 and 32 cores."""
SESSION = "ses_1"
SUSCEPTIBILITY = ("swi", "t2s")
"""A case has one of them."""


@dataclass(frozen=True)
class ChallengeTask:
    """One of the three tasks.

    Attributes:
        name: as in our command lines.
        number: as in theirs.
        kind: of the model.
        sequences: that every case has, and a flag each.
        either: of which a case has one.
        writes: what comes out.
    """

    name: str
    number: int
    kind: Kind
    sequences: tuple[str, ...]
    either: tuple[str, ...]
    writes: str

    @property
    def flags(self) -> tuple[str, ...]:
        """Every sequence that may be given."""
        return (*self.sequences, *self.either)

    @property
    def least(self) -> int:
        """Scans that a case has at least."""
        return len(self.sequences) + bool(self.either)

    @property
    def suffix(self) -> str:
        return ".nii.gz" if self.kind == "segmentation" else ".txt"

    @property
    def command(self) -> str:
        """The command line, for people."""
        scans = [f"--{name} {name}.nii.gz" for name in self.sequences]
        scans += [" | ".join(f"--{name} {name}.nii.gz" for name in self.either)] if self.either else []
        return f"predict.py {' '.join(scans)} --output sub_1{self.suffix}"


TASKS = {
    task.name: task
    for task in (
        ChallengeTask(
            *("infarct", 1, "classification", ("flair", "dwi_b1000", "adc"), SUSCEPTIBILITY),
            "the probability of an infarct, as text",
        ),
        ChallengeTask(
            *("meningioma", 2, "segmentation", ("flair", "dwi_b1000"), SUSCEPTIBILITY),
            "a mask of 0 and 1 on the grid of the input",
        ),
        ChallengeTask("age", 3, "regression", ("t1", "t2"), (), "the age in years, as text"),
    )
}


def check_model(
    task: ChallengeTask, kind: str, channels: Sequence[str], classes: int, where: Path, may_lack: bool = False
) -> None:
    """Refuse a model that cannot answer every case of the task.

    Args:
        task: which.
        kind, channels, classes: of the model.
        where: the bundle.
        may_lack: whether the model was trained to do without some of its channels.

    Raises:
        TaskError: another kind or number of classes, or a channel that a case may not have.
    """
    if kind != task.kind:
        raise TaskError(f"a {kind} model, {task.name} is a {task.kind}", where=where)
    if kind != "regression" and classes != 2:
        raise TaskError(f"a model of {classes} classes, {task.name} has 2", where=where)
    for either in task.either or ("",):
        given = {*task.sequences, either}
        lacking = [channel for channel in channels if not given & set(alternatives(channel, channels))]
        if lacking and not (may_lack and len(lacking) < len(channels)):
            has = ", ".join(name for name in (*task.sequences, either) if name)
            what = f"the model needs {lacking[0]}, a case of {task.name} may have only {has}"
            way_out = f"Finetune with sequences among {', '.join(task.flags)}, or with missing=zeros"
            raise TaskError(what, where=where, way_out=way_out)


def choose(channels: Sequence[str], given: Mapping[str, Path], may_lack: bool = False) -> dict[str, Path]:
    """The file of each channel of the model; where swi and t2s are both given, the one it was trained on first.

    Scans that the model does not use are left alone: the organisers give all that a case has.

    Raises:
        TaskError: a channel has no file, or none has where the model `may_lack` some.
    """
    chosen: dict[str, Path] = {}
    for channel in channels:
        names = alternatives(channel, channels)
        found = next((given[name] for name in names if name in given), None)
        if found is not None:
            chosen[channel] = found
        elif not may_lack:
            raise TaskError(f"no --{' or --'.join(names)} given", way_out="The model needs it")
    if not chosen:
        raise TaskError("no scan given", way_out=f"The model wants {', '.join(channels)}")
    return chosen
