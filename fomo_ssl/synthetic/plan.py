"""Who is scanned where: the list of visits of a corpus or a task, drawn before anything is generated."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from fomo_ssl.core.errors import FomoSSLError
from fomo_ssl.core.seeding import numpy_generator, sample_key
from fomo_ssl.synthetic.anatomy import Lesion, Subject
from fomo_ssl.synthetic.scanner import SITES, Site
from fomo_ssl.synthetic.tables import TASKS

TaskName = Literal["infarct", "meningioma", "brain_age"]

_OPTIONAL = ("t2", "flair", "dwi_b1000", "adc", "swi", "t1c")
_REPEAT_EVERY = 6
"""Every sixth subject of the corpus comes back three years later: a second session."""


@dataclass(frozen=True)
class StudySpec:
    """How large a study is.

    Attributes:
        subjects: of the corpus.
        cases: of each task.
        spacing_mm: in-plane voxel edge; slices of the second site are thicker. 2 mm is as fine as the anatomy is.
        sequences: scans per session of the corpus, T1 always among them; 1 to 7.
        seed: of everything; another seed is another population.
    """

    subjects: int = 24
    cases: int = 24
    spacing_mm: float = 3.0
    sequences: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        if not 2.0 <= self.spacing_mm <= 8.0:
            raise FomoSSLError(f"spacing_mm is {self.spacing_mm}", way_out="choose 2 to 8 mm")
        if not 1 <= self.sequences <= 1 + len(_OPTIONAL):
            raise FomoSSLError(f"sequences is {self.sequences}", way_out=f"choose 1 to {1 + len(_OPTIONAL)}")
        if self.subjects < 1 or self.cases < 1:
            raise FomoSSLError("a study needs subjects and cases", way_out="choose numbers above 0")


@dataclass(frozen=True)
class Visit:
    """One session to generate.

    Attributes:
        participant, session: names in the layout.
        subject: who is scanned, at the age of this visit.
        site: where.
        sequences: what.
        spacing_mm: in-plane.
        one_grid: all sequences on one grid, as in the tasks.
        label: "seg" writes the lesion's mask, other text is written to label.txt, "" writes nothing.
        stream: name of the random stream of collection and session.
    """

    participant: str
    session: str
    subject: Subject
    site: Site
    sequences: tuple[str, ...]
    spacing_mm: float
    one_grid: bool
    label: str
    stream: str


def corpus_visits(spec: StudySpec) -> list[Visit]:
    """Sessions of a corpus: sites in turn, ages spread over adulthood, some findings, some subjects seen twice."""
    population = sample_key(spec.seed, 0, "corpus")
    visits = []
    for number in range(spec.subjects):
        rng = numpy_generator(spec.seed, number, "corpus/plan")
        lesions: tuple[Lesion, ...] = ("none", "none", "none", "none", "infarct", "old_infarct", "meningioma")
        sex: Literal["F", "M"] = "F" if rng.random() < 0.5 else "M"
        subject = Subject(population, number, _age(rng, 20.0, 90.0), sex, lesions[int(rng.integers(len(lesions)))])
        picked = rng.permutation(len(_OPTIONAL))[: spec.sequences - 1]
        sequences = ("t1", *(_OPTIONAL[i] for i in sorted(picked.tolist())))
        site = SITES[number % len(SITES)]
        ages = (
            [subject.age, round(subject.age + 3.0, 1)] if number % _REPEAT_EVERY == _REPEAT_EVERY - 1 else [subject.age]
        )
        for time, age in enumerate(ages):
            person = Subject(population, number, age, sex, subject.lesion)
            visits.append(
                Visit(
                    f"sub_{number + 1}", f"ses_{time + 1}", person, site, sequences, spec.spacing_mm,
                    one_grid=False, label="", stream=f"corpus/{time}",
                )
            )  # fmt: skip
    return visits


_TASK_AGES: dict[str, tuple[float, float]] = {
    "infarct": (45.0, 90.0),
    "meningioma": (35.0, 85.0),
    "brain_age": (20.0, 90.0),
}


def task_visits(task: TaskName, n_cases: int, spacing_mm: float, seed: int) -> list[Visit]:
    """Classes and ages are spread evenly and sites dealt out within them, so that no label follows from the site."""
    population = sample_key(seed, 0, f"task/{task}")
    order = numpy_generator(seed, 0, f"task/{task}/order").permutation(n_cases)
    visits = []
    for place, number in enumerate(order.tolist()):
        rng = numpy_generator(seed, number, f"task/{task}/plan")
        low, high = _TASK_AGES[task]
        age = (
            round(low + (high - low) * (number + rng.random()) / n_cases, 1)
            if task == "brain_age"
            else _age(rng, low, high)
        )
        lesion, label = _finding(task, number, age, rng)
        sex: Literal["F", "M"] = "F" if rng.random() < 0.5 else "M"
        visits.append(
            Visit(
                f"sub_t{place + 1}", "ses_1", Subject(population, number, age, sex, lesion),
                SITES[number // 2 % len(SITES)], TASKS[task].sequences, spacing_mm,
                one_grid=True, label=label, stream=f"task/{task}",
            )
        )  # fmt: skip
    return visits


def _finding(task: str, number: int, age: float, rng: np.random.Generator) -> tuple[Lesion, str]:
    if task == "meningioma":
        return "meningioma", "seg"
    if task == "brain_age":
        return "none", f"{age:.1f}"
    if number % 2:
        return "infarct", "1"
    return ("old_infarct" if rng.random() < 0.45 else "none"), "0"


def _age(rng: np.random.Generator, low: float, high: float) -> float:
    return round(float(rng.uniform(low, high)), 1)
