"""A generated study on disk: a corpus for pretraining in the FOMO60K layout, and three labelled tasks in FOMO's.

Every visit is a pure function of (seed, collection, number), so the files do not depend on how many workers wrote them.
Workers are threads: the time goes into NumPy, SciPy and torch kernels that let go of Python's lock (measured 1.9 times
faster on two cores), and a fresh process would spend longer on imports than on a head.
"""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import get_args

import numpy as np

from fomo_ssl.core.errors import FomoSSLError
from fomo_ssl.core.files import atomic_folder, write_text
from fomo_ssl.core.seeding import numpy_generator
from fomo_ssl.core.types import Spacing
from fomo_ssl.imaging.nifti import write
from fomo_ssl.synthetic import tables
from fomo_ssl.synthetic.anatomy import build_anatomy
from fomo_ssl.synthetic.phantoms import phantom
from fomo_ssl.synthetic.plan import StudySpec, TaskName, Visit, corpus_visits, task_visits
from fomo_ssl.synthetic.scanner import Exam, label_map, scan
from fomo_ssl.synthetic.template import load_template

__all__ = ["StudySpec", "TaskName", "generate_corpus", "generate_task", "phantom"]

Progress = Callable[[int, int], None]

_FINEST_MM = 2.0
"""The template's voxels; a coarser study is computed on a coarser grid, 1.5 voxels to a scan's voxel."""


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
    identity = {"collection": "corpus", **asdict(spec)}
    del identity["cases"]
    return _generate(root, identity, corpus_visits(spec), workers, on_case, tables.write_corpus_tables)


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
    visits = task_visits(task, n_cases, spec.spacing_mm, seed)

    def finish(folder: Path, written: Sequence[tables.Row]) -> None:
        tables.write_task_tables(folder, task, written)

    return _generate(root, identity, visits, workers, on_case, finish)


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
        pool = ThreadPoolExecutor(workers or os.cpu_count() or 1)
        rows: list[tables.Row] = []
        try:
            written = pool.map(lambda visit: _write_visit(folder, visit, is_task), visits)
            for done, part in enumerate(written, start=1):
                rows += part
                if on_case is not None:
                    on_case(done, len(visits))
        finally:
            pool.shutdown(cancel_futures=True)
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
