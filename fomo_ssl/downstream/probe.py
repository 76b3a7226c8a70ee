"""What a frozen embedding holds: a linear model on it, by cross-validation over subjects.

Of a task: ridge for a number, logistic regression for classes. Without a task: which sequence a scan of the store is,
or the age of its subject where the store has one sequence only.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fomo_ssl.bundle import ReleasedEncoder, load_encoder
from fomo_ssl.core.errors import TaskError
from fomo_ssl.core.seeding import numpy_generator
from fomo_ssl.core.types import SEQUENCES, Triple
from fomo_ssl.corpus.store import Store
from fomo_ssl.downstream.metrics import METRICS
from fomo_ssl.downstream.scores import Predictions, intervals
from fomo_ssl.downstream.tasks import Task, load_task
from fomo_ssl.training.probing import Kind, linear_model

MAX_SCANS = 400
"""Scans of a store that are embedded, drawn with a fixed seed: enough for an interval, and soon done."""
# A class or a probe needs this many subjects, or a fold would lack it.
_MIN_SUBJECTS = 5
_FOLDS = 5
# Up to here each subject is left out in turn; beyond it 10 folds say the same for less.
_LEAVE_ONE_OUT = 50


Outputs = Callable[[np.ndarray, np.ndarray, np.ndarray, Kind, int], np.ndarray]
"""From features and labels to fit on, and features to predict, to values or probabilities of that many classes."""


@dataclass(frozen=True)
class ProbeResult:
    """The leading metric of a probe with its 95 % interval over `n` subjects; `target` says what was predicted."""

    target: str
    metric: str
    value: float
    low: float
    high: float
    n: int


def probe_bundle(
    bundle: Path,
    task: Path | str | Task | None,
    store: Store | Path | None = None,
    device: torch.device | str = "cpu",
) -> ProbeResult:
    """Probe a bundle's embedding.

    Args:
        bundle: folder of a bundle.
        task: a classification or regression task; None probes the scans of `store`.
        store: where there is no task.
        device: where the scans are embedded.

    Raises:
        TaskError: a segmentation task, neither task nor store, or too few subjects.
    """
    encoder = load_encoder(bundle).to(device)
    if task is not None:
        task = task if isinstance(task, Task) else load_task(task)
        return _result(task.name, probe_task(encoder, task))
    if store is None:
        raise TaskError("a probe needs a task or a store", way_out="Give task=PATH")
    return _probe_store(encoder, store if isinstance(store, Store) else Store.open(store))


def probe_task(encoder: ReleasedEncoder, task: Task) -> Predictions:
    """Cross-validated predictions of a task from the embeddings of its sequences, side by side.

    Raises:
        TaskError: a segmentation, or a case that lacks a sequence.
    """
    if task.kind == "segmentation":
        raise TaskError(f"{task.name} is a segmentation; a probe predicts numbers and classes")
    for case in task.cases:
        if lacking := [name for name in task.sequences if name not in case.images]:
            what = f"{case.name} has no {lacking[0]}, and a probe joins the embeddings of all sequences"
            raise TaskError(what, where=task.name, way_out="Set missing: skip in task.yaml")
    features = np.stack([embed_case(encoder, [case.images[name] for name in task.sequences]) for case in task.cases])
    subjects = [case.subject for case in task.cases]
    labels = np.array([float(case.label) for case in task.cases])  # type: ignore[arg-type]
    columns = cross_validate(features, labels, subjects, task.kind)
    ids = (tuple(case.name for case in task.cases), tuple(subjects), tuple(case.dataset for case in task.cases))
    return Predictions(task.kind, *ids, columns)


def embed_case(encoder: ReleasedEncoder, images: Sequence[Path]) -> np.ndarray:
    """Embeddings of a session's scans, one after another; float64."""
    return np.concatenate([encoder.embed(path).double().cpu().numpy() for path in images])


def linear_outputs(fit: np.ndarray, labels: np.ndarray, test: np.ndarray, kind: Kind, classes: int) -> np.ndarray:
    """Values (n, 1) or class probabilities (n, classes) by a linear model."""
    model = linear_model(kind).fit(fit, labels)
    if kind == "regression":
        values: np.ndarray = model.predict(test)[:, None]
        return values
    outputs = np.zeros((len(test), classes))
    outputs[:, model.classes_.astype(int)] = model.predict_proba(test)
    return outputs


def cross_validate(
    features: np.ndarray,
    labels: np.ndarray,
    subjects: Sequence[str],
    kind: Kind,
    outputs_of: Outputs = linear_outputs,
) -> dict[str, np.ndarray]:
    """Columns of `Predictions`: every case predicted by a model that saw no scan of its subject.

    Args:
        features: (n, d).
        labels: (n,) numbers, or class indices 0 … K-1.
        kind: `regression` or `classification`.
        outputs_of: fits on some rows and predicts others, as `linear_outputs` does.

    Raises:
        TaskError: fewer than 5 subjects, or a class with fewer than 2.
    """
    if len(set(subjects)) < _MIN_SUBJECTS:
        raise TaskError(f"a probe needs {_MIN_SUBJECTS} subjects, there are {len(set(subjects))}")
    groups = np.unique(subjects, return_inverse=True)[1]
    folds = _folds_of_subjects(groups) if kind == "regression" else _folds_of_classes(labels, groups)
    classes = 1 if kind == "regression" else int(labels.max()) + 1
    outputs = np.zeros((len(labels), classes))
    for train, test in folds.split(features, labels, groups):
        outputs[test] = outputs_of(features[train], labels[train], features[test], kind, classes)
    if classes <= 2:
        return {"target": labels, "prediction": outputs[:, -1]}
    probabilities = {f"probability_{label}": outputs[:, label] for label in range(classes)}
    return {"target": labels, "prediction": outputs.argmax(axis=1).astype(float), **probabilities}


def _folds_of_subjects(groups: np.ndarray) -> Any:
    from sklearn.model_selection import GroupKFold

    count = len(np.unique(groups))
    return GroupKFold(count if count <= _LEAVE_ONE_OUT else 2 * _FOLDS)


def _folds_of_classes(labels: np.ndarray, groups: np.ndarray) -> Any:
    from sklearn.model_selection import StratifiedGroupKFold

    smallest = min(len(np.unique(groups[labels == label])) for label in np.unique(labels))
    if smallest < 2 or len(np.unique(labels)) < 2:
        raise TaskError("a probe of classes needs two classes, and two subjects of each")
    return StratifiedGroupKFold(min(_FOLDS, smallest), shuffle=True, random_state=0)


def _probe_store(encoder: ReleasedEncoder, store: Store) -> ProbeResult:
    here, wanted = store.spec.normalisation, encoder.config.input.normalisation
    if here != wanted:
        what = f"its scans are stored as {here}, the encoder expects {wanted}"
        raise TaskError(what, where=store.path, way_out="Give task=PATH, whose scans are read as the encoder expects")
    subjects = np.array([f"{d}/{s}" for d, s in zip(*(_column(store, c) for c in ("dataset", "subject")), strict=True)])
    labels: np.ndarray
    kind: Kind
    classes, ages = np.array(_column(store, "sequence_class")), np.array(_column(store, "age"), np.float64)
    rows = _frequent(classes, subjects, np.arange(len(store)))
    if len(np.unique(classes[rows])) > 1:
        # Among those that are drawn, a rare sequence may have too few subjects again.
        rows, kind = _frequent(classes, subjects, _drawn(rows)), "classification"
        frequent = np.unique(classes[rows])
        labels, target = np.searchsorted(frequent, classes), f"sequence ({', '.join(SEQUENCES[k] for k in frequent)})"
    else:
        rows, kind = _drawn(np.flatnonzero(np.isfinite(ages))), "regression"
        labels, target = ages, "age"
    if len(np.unique(subjects[rows])) < _MIN_SUBJECTS:
        raise TaskError("the store holds neither several sequences nor ages of enough subjects", where=store.path)
    features = np.stack([_embed_row(encoder, store, int(row)) for row in rows])
    chosen = tuple(subjects[rows].tolist())
    columns = cross_validate(features, labels[rows].astype(np.float64), chosen, kind)
    return _result(target, Predictions(kind, tuple(map(str, rows)), chosen, ("",) * len(rows), columns))


def _frequent(classes: np.ndarray, subjects: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The rows whose class has enough subjects among them."""
    enough = [
        k for k in np.unique(classes[rows]) if len(np.unique(subjects[rows][classes[rows] == k])) >= _MIN_SUBJECTS
    ]
    return rows[np.isin(classes[rows], enough)]


def _drawn(rows: np.ndarray) -> np.ndarray:
    if len(rows) <= MAX_SCANS:
        return rows
    return np.sort(numpy_generator(0, stream="probe").choice(rows, MAX_SCANS, replace=False))


@torch.inference_mode()
def _embed_row(encoder: ReleasedEncoder, store: Store, row: int) -> np.ndarray:
    """The embedding of the central crop, of the size that the encoder was trained on."""
    facts = store.index.slice(row, 1).to_pylist()[0]
    crop: Triple = encoder.config.input.crop
    x, y, z = ((facts[f"shape_{axis}"] - size) // 2 for axis, size in zip("xyz", crop, strict=True))
    stored = torch.from_numpy(store.read_crop(row, (x, y, z), crop)).float()
    image = (stored * facts["scale"] + facts["offset"]).expand(1, encoder.config.in_channels, *crop)
    embedding: np.ndarray = encoder(image.to(next(encoder.parameters()).device))[0].double().cpu().numpy()
    return embedding


def _column(store: Store, name: str) -> list[Any]:
    values: list[Any] = store.index.column(name).to_pylist()
    return values


def _result(target: str, predictions: Predictions) -> ProbeResult:
    metric = METRICS[predictions.kind][0]
    found = intervals([predictions], [metric])[metric]
    return ProbeResult(target, metric, found.value, found.low, found.high, found.n)
