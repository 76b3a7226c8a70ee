"""A generated study on disk: a corpus for pretraining in the FOMO60K layout, and three labelled tasks in FOMO's.

Every visit is a pure function of (seed, collection, number), so the files do not depend on how many workers wrote them.
"""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from fomo_ssl.core.errors import FomoSSLError
from fomo_ssl.core.files import atomic_folder, write_text
from fomo_ssl.core.seeding import numpy_generator, sample_key
from fomo_ssl.core.types import Spacing
from fomo_ssl.imaging.nifti import write
from fomo_ssl.synthetic import tables
from fomo_ssl.synthetic.anatomy import Lesion, Subject, build_anatomy
from fomo_ssl.synthetic.phantoms import phantom
from fomo_ssl.synthetic.scanner import SITES, Exam, Site, label_map, scan
from fomo_ssl.synthetic.template import load_template

__all__ = ["StudySpec", "TaskName", "generate_corpus", "generate_task", "phantom"]

TaskName = Literal["infarct", "meningioma", "brain_age"]
Progress = Callable[[int, int], None]

_OPTIONAL = ("t2", "flair", "dwi_b1000", "adc", "swi", "t1c")
_FINEST_MM = 2.0
"""The template's voxels; a coarser study is computed on a coarser grid, 1.5 voxels to a scan's voxel."""

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


def generate_corpus(
    root: Path, spec: StudySpec, *, workers: int | None = None, on_case: Progress | None = None
) -> Path:
    """Write `sub_X/ses_Y/<sequence>.nii.gz`, participants.tsv, mapping.tsv and mri_info.tsv under `root`.

    A folder that holds this very corpus already is left as it is; a folder of another study is replaced as a whole.

    Args:
        root: the corpus folder.
        spec: how large.
        workers: threads; default one a processor. Files do not depend on it.
        on_case: called with (done, total) after each session, for progress bars.

    Raises:
        FomoSSLError: `root` holds something that is no generated study.
    """
    visits = _corpus_visits(spec)
    return _generate(
        root, {"collection": "corpus", **asdict(spec)}, visits, workers, on_case, tables.write_corpus_tables
    )


def generate_task(
    root: Path,
    task: TaskName,
    n_cases: int,
    spec: StudySpec,
    seed: int | None = None,
    *,
    workers: int | None = None,
    on_case: Progress | None = None,
) -> Path:
    """Write `preprocessed/sub_X/ses_1/<sequence>.nii.gz`, labels, task.yaml and participants.tsv under `root`.

    infarct: acute infarct yes or no from FLAIR, DWI, ADC, SWI, half of the cases each; negatives may have old infarcts
    that shine through on DWI. meningioma: its mask from FLAIR, DWI, SWI, T1c. brain_age: years from T1 and T2.
    Subjects are not those of the corpus. Arguments and errors as `generate_corpus`; `seed` defaults to the spec's.
    """
    if task not in get_args(TaskName):
        raise FomoSSLError(f"unknown task {task!r}", way_out=f"known: {', '.join(get_args(TaskName))}")
    if n_cases < 1:
        raise FomoSSLError(f"n_cases is {n_cases}", way_out="choose a number above 0")
    seed = spec.seed if seed is None else seed
    identity: dict[str, object] = {"collection": task, "cases": n_cases, "spacing_mm": spec.spacing_mm, "seed": seed}
    visits = _task_visits(task, n_cases, spec.spacing_mm, seed)

    def finish(folder: Path, written: Sequence[tables.Row]) -> None:
        tables.write_task_tables(folder, task, written)

    return _generate(root, identity, visits, workers, on_case, finish)


def _corpus_visits(spec: StudySpec) -> list[Visit]:
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


def _task_visits(task: TaskName, n_cases: int, spacing_mm: float, seed: int) -> list[Visit]:
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
                f"sub_{place + 1}", "ses_1", Subject(population, number, age, sex, lesion),
                SITES[number // 2 % len(SITES)], tables.TASKS[task].sequences, spacing_mm,
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


def _generate(
    root: Path,
    identity: dict[str, object],
    visits: list[Visit],
    workers: int | None,
    on_case: Progress | None,
    finish: Callable[[Path, Sequence[tables.Row]], None],
) -> Path:
    root = Path(root)
    if tables.is_finished(root, identity):
        return root
    load_template()
    is_task = identity["collection"] != "corpus"
    with atomic_folder(root) as folder:
        rows: list[tables.Row] = []
        threads = workers or len(os.sched_getaffinity(0))
        with ThreadPoolExecutor(max(1, threads)) as pool:
            for done, written in enumerate(
                pool.map(lambda visit: _write_visit(folder, visit, is_task), visits), start=1
            ):
                rows += written
                if on_case is not None:
                    on_case(done, len(visits))
        finish(folder, rows)
        tables.mark_finished(folder, identity)
    return root


def _write_visit(folder: Path, visit: Visit, is_task: bool) -> list[tables.Row]:
    """Generate one session; a row of the tables per scan."""
    images = folder / ("preprocessed" if is_task else "") / visit.participant / visit.session
    draw = numpy_generator(visit.subject.seed, visit.subject.index, f"{visit.stream}/prepare")
    stripped, defaced = bool(draw.random() < visit.site.stripped), bool(draw.random() < visit.site.defaced)
    edge = max(_FINEST_MM, visit.spacing_mm / 1.5)
    anatomy = build_anatomy(visit.subject, edge=edge, brain_only=stripped)
    rows = []
    for sequence in visit.sequences:
        exam = Exam(anatomy, visit.site, _spacing(visit, sequence), stripped, defaced)
        rng = numpy_generator(visit.subject.seed, visit.subject.index, f"{visit.stream}/{sequence}")
        image = scan(exam, sequence, rng)
        path = images / f"{sequence}.nii.gz"
        write(path, image.data, image.affine)
        rows.append(_row(visit, sequence, exam, image.data, path))
    if visit.label:
        target = folder / "labels" / visit.participant / visit.session
        if visit.label == "seg":
            mask = label_map(Exam(anatomy, visit.site, _spacing(visit, ""), stripped, defaced))
            write(target / "seg.nii.gz", mask.data, mask.affine)
        else:
            write_text(target / "label.txt", visit.label + "\n")
    return rows


def _spacing(visit: Visit, sequence: str) -> Spacing:
    """In-plane spacing and slice distance of a scan."""
    thick = 1.0 if visit.one_grid else visit.site.thick.get(sequence, 1.0)
    return (visit.spacing_mm, visit.spacing_mm, visit.spacing_mm * visit.site.slice_factor * thick)


def _row(visit: Visit, sequence: str, exam: Exam, data: np.ndarray, path: Path) -> tables.Row:
    stored = [exam.spacing["RLAPSI".index(code) // 2] for code in visit.site.orientation]
    return tables.Row(
        participant=visit.participant,
        session=visit.session,
        age=visit.subject.age,
        sex=visit.subject.sex,
        dataset=f"synthetic_{visit.site.name}",
        group="control" if visit.subject.lesion == "none" else visit.subject.lesion,
        filename=path.name,
        sequence=sequence,
        shape="x".join(str(n) for n in data.shape),
        spacing="x".join(f"{s:g}" for s in stored),
        orientation=visit.site.orientation,
        dtype=str(data.dtype),
        low=int(data.min()),
        high=int(data.max()),
        size=path.stat().st_size,
    )
