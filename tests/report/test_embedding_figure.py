import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from sklearn.decomposition import PCA

from fomo_ssl.core.errors import ConfigError
from fomo_ssl.downstream.embeddings import COLUMNS
from fomo_ssl.report.embedding_figure import planes, principal_components, write_figure


def table(scans: int, sequences: int) -> pa.Table:
    """Scans of so many sequences, one of them without an age."""
    vectors = np.random.default_rng(0).normal(size=(scans, 4)).astype(np.float32)
    columns = {name: pa.nulls(scans, pa.string()) for name in COLUMNS}
    columns["sequence"] = pa.array([f"sequence_{i % sequences}" for i in range(scans)])
    columns["age"] = pa.array([None, *np.linspace(20.0, 80.0, scans - 1)], pa.float32())
    return pa.table(columns | {f"e{i}": pa.array(vectors[:, i]) for i in range(4)})


def test_components_are_those_of_scikit_learn() -> None:
    vectors = np.random.default_rng(2).normal(size=(40, 6)).astype(np.float32) @ np.diag([5.0, 3.0, 1, 1, 1, 1])
    vectors[:, 2] = vectors[:, 0] + 0.1 * vectors[:, 2]
    standard = (vectors - vectors.mean(axis=0)) / vectors.std(axis=0)
    reference = PCA(2).fit(standard)
    plane = principal_components(vectors)
    np.testing.assert_allclose(np.abs(plane.points), np.abs(reference.transform(standard)), atol=1e-6)
    assert plane.axes[0] == f"PC 1 ({reference.explained_variance_ratio_[0]:.0%})"


def test_the_direction_of_a_component_does_not_depend_on_the_order_of_scans() -> None:
    vectors = np.random.default_rng(3).normal(size=(30, 5)).astype(np.float32)
    there, back = principal_components(vectors), principal_components(vectors[::-1].copy())
    np.testing.assert_allclose(there.points, back.points[::-1], atol=1e-9)


def test_equal_embeddings_lie_on_one_point() -> None:
    np.testing.assert_array_equal(principal_components(np.ones((5, 3), np.float32)).points, 0.0)


def test_panels_are_those_columns_that_differ(tmp_path: Path) -> None:
    said = write_figure(table(40, 20), tmp_path / "map.svg")
    assert said.startswith("PCA")
    assert said.endswith("coloured by sequence, age")
    rows = 2 if said.startswith("PCA and UMAP,") else 1
    assert (tmp_path / "map.svg").read_text().count("<!-- 8 others -->") == rows
    assert write_figure(table(40, 1), tmp_path / "map.png").endswith("coloured by age")
    assert (tmp_path / "map.png").read_bytes().startswith(b"\x89PNG")


def test_two_scans_give_no_picture(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="2 scans give no picture"):
        write_figure(table(2, 1), tmp_path / "map.png")
    assert not list(tmp_path.iterdir())


def test_every_dataset_is_in_the_legend(tmp_path: Path) -> None:
    names = ["", "_pilot", "a<b"] * 4
    given = table(12, 1).set_column(COLUMNS.index("dataset"), "dataset", pa.array(names))
    write_figure(given, tmp_path / "map.svg")
    texts = re.findall(r"<!-- (.*?) -->", (tmp_path / "map.svg").read_text())
    assert {"not known", "_pilot", "a&lt;b"} <= {text.strip() for text in texts}


def test_umap_parts_what_is_apart_and_is_the_same_every_time() -> None:
    pytest.importorskip("umap", reason="the extra `umap` is not installed")
    draw = np.random.default_rng(0)
    vectors = np.concatenate([draw.normal(size=(20, 8)), draw.normal(size=(20, 8)) + 8]).astype(np.float32)
    there, again = planes(vectors), planes(vectors)
    assert [plane.method for plane in there] == ["PCA", "UMAP"]
    points = there[1].points
    np.testing.assert_array_equal(points, again[1].points)
    first, second = points[:20], points[20:]
    spread = max(np.linalg.norm(group - group.mean(axis=0), axis=1).max() for group in (first, second))
    assert np.linalg.norm(first.mean(axis=0) - second.mean(axis=0)) > 2 * spread
