import csv
import re
from pathlib import Path

import numpy as np
import pytest
from page_rules import assert_whole

from fomo_ssl.corpus.layouts import ScanRow
from fomo_ssl.corpus.metadata import Metadata
from fomo_ssl.corpus.quality import Flag, assess
from fomo_ssl.corpus.store import Store, StoreWriter
from fomo_ssl.imaging.canonical import CanonicalSpec, canonicalise
from fomo_ssl.report import data_counts
from fomo_ssl.report.data_page import FLAGS_CSV, MEANING, write_data_report
from fomo_ssl.report.planes import three_planes
from fomo_ssl.synthetic.phantoms import phantom


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Three scans of two subjects, one of them twice under both names, and two files in quarantine."""
    path = tmp_path_factory.mktemp("data_page") / "store <1>"
    scans = [("sub_1", "t1", 1, 44.0), ("sub_1", "flair", 2, 44.0), ("sub_2", "t1", 1, None)]
    with StoreWriter.create(path, CanonicalSpec(None)) as writer:
        for subject, sequence, seed, age in scans:
            row = ScanRow("A & B", subject, "ses_1", sequence, f"{subject}/{sequence}.nii.gz")
            known = Metadata(age=age, sex="F" if age else None)
            writer.add(row, canonicalise(phantom(seed, sequence=sequence), CanonicalSpec(None)), known)
    lines = ["path,reason,detail,dataset,sequence,source_bytes"]
    lines += ["bad.nii.gz,truncated,ends early,A,t1,10", "flat.nii.gz,constant,every voxel is 0,A,t1,10"]
    (path / "quarantine.csv").write_text("\n".join(lines) + "\n")
    return Store.open(path)


@pytest.fixture(scope="module")
def output(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("page") / "data_report.html"
    write_data_report(assess(store), output)
    return output


def test_the_page_holds_everything_it_shows(output: Path):
    text = output.read_text()
    assert_whole(text)
    assert "http" not in re.sub(r'xmlns(:\w+)?="[^"]*"', "", text)
    assert "store &lt;1&gt;" in text
    assert "A &amp; B" in text


def test_the_page_counts_what_is_there_what_is_missing_and_what_was_rejected(output: Path):
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", output.read_text()))
    assert "3 scans of 2 subjects in 2 sessions and 1 dataset; 2 more in quarantine" in text
    assert "1 of 2 sessions have no age" in text
    assert "field_strength 0 3 100 %" in text
    assert "truncated 1 bad.nii.gz (ends early)" in text
    assert "constant 1 flat.nii.gz" in text
    assert "3 scans were not judged : fewer than 20 other subjects" in text


def test_the_table_of_flags_lies_beside_the_page(output: Path):
    lines = list(csv.DictReader((output.parent / FLAGS_CSV).read_text().splitlines()))
    assert [line["flag"] for line in lines if line["subject"] == "sub_2"] == [Flag.DUPLICATE.value]
    assert 'id="duplicate"' in output.read_text()
    assert set(MEANING) == set(Flag)


def test_counts_fold_many_datasets_and_know_what_they_do_not_know(store: Store):
    counts = data_counts.count(store.index)
    assert (counts.sex, counts.ages) == ({"F": 1, "not known": 1}, {"F": [44.0]})
    assert counts.spacing == {"not known": (3, 3)}
    names = [f"d{i:03d}" for i in range(60)]
    lines = data_counts._cross(names, ["t1"] * 60, list(range(60)), names, ["t1"])
    assert len(lines) == 40
    assert lines[-1] == ("21 smaller datasets", 21, 21, [21])


def test_planes_keep_the_proportions_of_thick_slices():
    import base64
    import io

    from PIL import Image

    values = np.random.default_rng(0).normal(size=(30, 40, 10))
    address = three_planes(values, (1.0, 1.0, 3.0), (15, 20, 5), height=80)
    picture = Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2])))
    assert picture.size == (60 + 60 + 80 + 6, 80)
    assert np.asarray(picture)[:9, 63:].max() == 0


def test_a_spacing_is_counted_where_its_label_says():
    edges = np.array([0.75, 0.8, 1.0, 1.5, 2.0, 3.0, 5.0, 6.0, np.nan])
    counted = data_counts._binned(edges, edges)
    assert {label: both[0] for label, both in counted.items()} == {
        **{"up to 0.75": 1, "0.75 to 1": 2, "1 to 1.5": 1, "1.5 to 2": 1, "2 to 3": 1, "3 to 5": 1, "above 5": 1},
        "not known": 1,
    }
