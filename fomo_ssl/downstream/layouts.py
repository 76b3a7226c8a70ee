"""The layouts a task may lie in: FOMO task folder, nnU-Net raw dataset, CSV of paths."""

import csv
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fomo_ssl.core.errors import TaskError
from fomo_ssl.downstream.tasks import RawCase, RawTask

_YAML_KEYS = {"name", "kind", "sequences", "missing", "classes"}
_SUFFIXES = (".nii.gz", ".nii")
# Of a folder or a file, as in BIDS; `subjects` is none.
_SUBJECT = re.compile(r"sub(?:[-_][0-9A-Za-z]+|\d+)")


def read_layout(path: Path, kind: str | None = None) -> RawTask:
    """Recognise the layout of `path` and list its cases.

    Args:
        path: of the task.
        kind: that is wanted, where a case has both a mask and a number.

    Raises:
        TaskError: the path is missing or looks like no known layout.
    """
    if not path.exists():
        raise TaskError("no such task", where=path, way_out="Give a task folder or a CSV table")
    if path.is_file():
        return read_table(path)
    if (path / "dataset.json").is_file():
        return read_nnunet(path)
    if (path / "preprocessed").is_dir():
        return read_fomo(path, kind)
    raise TaskError(
        "this is no task: neither preprocessed/ and labels/, nor dataset.json, nor a CSV table",
        where=path,
        way_out="See docs/how-to/finetune.md for the layouts",
    )


def read_fomo(root: Path, kind: str | None = None) -> RawTask:
    """FOMO: `preprocessed/sub_X/ses_Y/<sequence>.nii.gz`, `labels/sub_X[/ses_Y]/{seg.nii.gz,label.txt}`.

    Of both, as the infarcts of FOMO25 have them, the mask is the label of a segmentation only.
    """
    cases, unlabelled = [], 0
    stated = {"name": root.name} | _task_yaml(root / "task.yaml")
    names = ("label.txt", "seg.nii.gz")
    if (kind or stated.get("kind")) == "segmentation":
        names = names[::-1]
    datasets = _datasets(root / "participants.tsv")
    for folder in sorted(p for p in (root / "preprocessed").glob("*/*") if p.is_dir()):
        images = {_stem(p): p for p in sorted(folder.iterdir()) if p.name.endswith(_SUFFIXES)}
        subject, session = folder.parent.name, folder.name
        label = _fomo_label(root / "labels" / subject, session, names)
        if images and label is not None:
            cases.append(RawCase(subject, session, images, label, datasets.get(subject, "")))
        unlabelled += bool(images) and label is None
    if not cases:
        raise TaskError("no labels", where=root, way_out="Put seg.nii.gz or label.txt under labels/sub_X/ses_1/")
    notes = (f"{unlabelled} sessions have no label and were left out",) if unlabelled else ()
    return RawTask(root=root, cases=cases, notes=notes, **stated)


def read_nnunet(root: Path) -> RawTask:
    """nnU-Net's raw dataset (`dataset.json`, `imagesTr/<case>_0000.nii.gz`, `labelsTr/<case>.nii.gz`), or MSD's.

    A case is a subject, but for names as in BIDS: `sub-1_ses-1` and `sub-1_ses-2` are two sessions of one.
    """
    try:
        description = json.loads((root / "dataset.json").read_text())
        channels = description.get("channel_names") or description["modality"]
        names = [str(channels[key]).lower() for key in sorted(channels, key=int)]
        classes = 1 + max(int(v) for v in _nnunet_labels(description["labels"]))
    except (json.JSONDecodeError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise TaskError(f"dataset.json is not nnU-Net's ({error!r})", where=root) from error
    if "ignore" in description["labels"]:
        what = "dataset.json has a label to ignore, which would be learned and scored as a class"
        raise TaskError(what, where=root, way_out="Label these voxels, or leave these cases out")
    suffix = description.get("file_ending", ".nii.gz")
    cases = []
    for label in sorted((root / "labelsTr").glob(f"[!.]*{suffix}")):
        case = label.name.removesuffix(suffix)
        paths = {name: root / "imagesTr" / f"{case}_{k:04d}{suffix}" for k, name in enumerate(names)}
        if len(names) == 1 and not paths[names[0]].exists():
            paths = {names[0]: root / "imagesTr" / label.name}
        found = re.fullmatch(rf"({_SUBJECT.pattern})(?:_(.+))?", case)
        subject, session = (found[1], found[2] or "") if found else (case, "")
        cases.append(RawCase(subject, session, {name: p for name, p in paths.items() if p.exists()}, label))
    if not cases:
        raise TaskError("no labels", where=root / "labelsTr", way_out="NnU-Net keeps masks in labelsTr/")
    name = str(description.get("name") or root.name)
    return RawTask(name, root, cases, kind="segmentation", sequences=names, classes=classes)


def read_table(path: Path) -> RawTask:
    """A CSV with `image` or `image_<sequence>` columns, `label`, and optional `subject`, `session`, `dataset`.

    Paths are absolute or relative to the table. Without a `subject` column the subject is the first `sub-…`, `sub_…` or
    `sub1…` that a folder or the file of the path begins with, else the path.
    """
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    columns = list(rows[0]) if rows else []
    image_columns = [name for name in columns if name == "image" or name.startswith("image_")]
    if not image_columns or "label" not in columns:
        raise TaskError(
            f"the table has columns {', '.join(columns) or 'none'}; needed are image or image_<sequence>, and label",
            where=path,
        )
    stems = {_stem(Path(row["image"])) for row in rows if row.get("image")}
    single = stems.pop() if len(stems) == 1 else "image"
    names = {name: single if name == "image" else name.removeprefix("image_") for name in image_columns}
    datasets = _datasets(path.parent / "participants.tsv")
    cases = [_table_case(path, row, names, datasets) for row in rows if (row["label"] or "").strip()]
    if not cases:
        raise TaskError("no labels", where=path, way_out="Fill the column label")
    return RawTask(path.stem, path, cases, sequences=list(names.values()))


def _table_case(table: Path, row: Mapping[str, str], names: Mapping[str, str], datasets: Mapping[str, str]) -> RawCase:
    written = {sequence: Path(row[column]) for column, sequence in names.items() if row[column]}
    paths = {sequence: table.parent / path for sequence, path in written.items()}
    for path in paths.values():
        if not path.exists():
            raise TaskError(f"no such image: {path}", where=table, way_out="Paths are relative to the table")
    # As written: an image may lie anywhere, above the table too.
    first = next(iter(written.values()), Path())
    parts = [part for part in first.parts if part not in (first.anchor, "..")]
    fallback = "_".join(parts).removesuffix(".gz").removesuffix(".nii")
    subject = row.get("subject") or next((found[0] for part in parts if (found := _SUBJECT.match(part))), fallback)
    session = row.get("session") or next((p for p in parts[:-1] if p.startswith("ses")), "")
    text = row["label"].strip()
    label = table.parent / text if text.endswith(_SUFFIXES) else text
    if isinstance(label, Path) and not label.exists():
        raise TaskError(f"no such mask: {label}", where=table, way_out="Paths are relative to the table")
    return RawCase(subject, session, paths, label, row.get("dataset") or datasets.get(subject, ""))


def _fomo_label(folder: Path, session: str, names: Sequence[str]) -> Path | str | None:
    found = (place / name for place in (folder / session, folder) for name in names if (place / name).is_file())
    label = next(found, None)
    return label.read_text().strip() if label is not None and label.suffix == ".txt" else label


def _datasets(participants: Path) -> dict[str, str]:
    """`dataset` by `participant_id`, where a participants table has both."""
    if not participants.is_file():
        return {}
    with participants.open(newline="", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    return {row.get("participant_id", ""): row.get("dataset") or "" for row in rows}


def _task_yaml(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    import yaml  # type: ignore[import-untyped]

    try:
        values = yaml.safe_load(path.read_text()) or {}
    except yaml.YAMLError as error:
        raise TaskError(f"not YAML: {error}", where=path) from error
    if not isinstance(values, dict) or type(values.get("classes", 2)) is not int:
        raise TaskError("no keys with values, or classes is no whole number", where=path)
    if isinstance(values.get("sequences"), str):
        values["sequences"] = [values["sequences"]]
    unknown = set(values) - _YAML_KEYS
    if unknown:
        raise TaskError(
            f"unknown keys {', '.join(sorted(unknown))}", where=path, way_out=f"Known: {', '.join(sorted(_YAML_KEYS))}"
        )
    return dict(values)


def _nnunet_labels(labels: Mapping[str, Any]) -> list[Any]:
    """Label values; the older form has them as keys and names as values."""
    return [key if str(key).isdigit() else value for key, value in labels.items()]


def _stem(path: Path) -> str:
    return path.name.removesuffix(".gz").removesuffix(".nii")
