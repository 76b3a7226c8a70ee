import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fomo_ssl.downstream.metrics import auroc
from fomo_ssl.downstream.statistics import Interval
from fomo_ssl.report import figures

COLOURS = {"pretrained": figures.COLOURS[0], "scratch": figures.COLOURS[1]}


def some_figures() -> dict[str, str]:
    line = np.linspace(1.0, 0.2, 5)
    curve = figures.Curve("pretrained", COLOURS["pretrained"], np.arange(5.0), line, line - 0.1, line + 0.1)
    points = [(1, Interval(0.5, 0.4, 0.6, 9)), (5, Interval(float("nan"), float("nan"), float("nan"), 9))]
    bands = [(name, interval) for name, (_, interval) in zip(("20–30", "30–40"), points, strict=True)]
    ages = np.array([20.0, 50.0, 70.0])
    return {
        "curve": figures.learning_curve(figures.Panel("1 shot", "loss", [curve]), "curve"),
        "shots": figures.score_by_shots({"pretrained": points, "scratch": points[:1]}, COLOURS, "Dice", "shots"),
        "scatter": "".join(
            figures.scatter([figures.Points("a", ages, ages + 3, ["IXI", "IXI", "OASIS"])], "value", "scatter")
        ),
        "flat": "".join(figures.scatter([figures.Points("a", ages * 0, ages * 0)], "value", "flat")),
        "roc": figures.roc({"scratch": [(np.array([0.1, 0.9]), np.array([0, 1]))]}, COLOURS, "roc"),
        "bands": figures.score_by_band({"scratch": bands}, COLOURS, "MAE", "bands"),
        "ranks": figures.rank_shares({"scratch": [0.75, 0.25], "pretrained": [0.25, 0.75]}, COLOURS, "ranks"),
        "bar": figures.interval_bar(Interval(0.1, -0.1, 0.3, 9), 0.3, "#123456"),
    }


@pytest.fixture(scope="module")
def drawn() -> dict[str, str]:
    return some_figures()


def test_figures_are_well_formed_and_take_the_colour_of_the_page(drawn: dict[str, str]) -> None:
    for name, svg in drawn.items():
        ET.fromstring(svg)
        assert svg.startswith("<svg"), name
        assert "currentColor" in svg, name
        assert "#000000" not in svg, name


def test_shares_of_ranks_are_written_in_their_cells(drawn: dict[str, str]) -> None:
    assert re.findall(r">(\d+ %)<", drawn["ranks"]) == ["75 %", "25 %", "25 %", "75 %"]


@pytest.mark.parametrize(("last", "ticks"), [(0.15, ["0.2", "0.5", "1", "2"]), (1.5, ["1.50", "1.75", "2.00"])])
def test_a_loss_that_falls_by_factors_is_drawn_logarithmically(last: float, ticks: list[str]) -> None:
    line = np.linspace(2.6, last, 5)
    curve = figures.Curve("scratch", COLOURS["scratch"], np.arange(5.0), line, line, line)
    svg = figures.learning_curve(figures.Panel("1 shot", "loss", [curve], may_be_logarithmic=True), "curve")
    assert re.findall(r">([\d.]+)</text>", svg[svg.index("matplotlib.axis_2") :])[: len(ticks)] == ticks


def test_figures_are_the_same_bytes_every_time(drawn: dict[str, str]) -> None:
    assert some_figures() == drawn


def test_ids_do_not_collide_between_figures_of_a_page(drawn: dict[str, str]) -> None:
    ids = [set(re.findall(r'id="((?:m|p|C)[0-9a-f]{6,}\w*)"', svg)) for svg in drawn.values()]
    assert sum(map(len, ids)) == len(set().union(*ids))
    assert any(ids)


def test_a_bar_stays_inside_and_is_left_out_where_there_is_nothing_to_draw() -> None:
    drawn = figures.interval_bar(Interval(5.0, -9.0, 9.0, 9), 1.0, "red")
    assert all(0 <= float(x) <= 90 for x in re.findall(r'(?:x1|x2|cx)="([\d.-]+)"', drawn))
    assert figures.interval_bar(Interval(float("nan"), 0.0, 1.0, 9), 1.0, "red") == ""
    assert figures.interval_bar(Interval(0.0, 0.0, 0.0, 9), 0.0, "red") == ""


def test_a_model_without_a_single_prediction_has_no_roc_curve() -> None:
    nothing = (np.full(3, np.nan), np.array([0, 1, 1]))
    alone = figures.roc({"scratch": [nothing]}, COLOURS, "roc")
    ET.fromstring(alone)
    fine = (np.array([0.1, 0.9]), np.array([0, 1]))
    both = figures.roc({"scratch": [nothing, fine]}, COLOURS, "roc")
    assert both.count(COLOURS["scratch"]) > alone.count(COLOURS["scratch"]) == 0
    assert ">scratch<" in both


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=2, max_size=30).filter(
        lambda rows: len({label for _, label in rows}) == 2
    )
)
def test_the_area_under_the_drawn_curve_is_the_auroc(rows: list[tuple[int, bool]]) -> None:
    scores = np.array([score for score, _ in rows], float)
    labels = np.array([label for _, label in rows])
    false, true = figures.roc_points(scores, labels)
    assert (false[0], true[0], false[-1], true[-1]) == (0, 0, 1, 1)
    assert (np.diff(false) >= 0).all()
    assert np.trapezoid(true, false) == pytest.approx(auroc(scores, labels))


def test_dollars_in_a_name_are_text() -> None:
    points = [(1, Interval(0.5, 0.4, 0.6, 9)), (5, Interval(0.6, 0.5, 0.7, 9))]
    svg = figures.score_by_shots({r"pretrained $\nu$": points}, {r"pretrained $\nu$": "red"}, "Dice", "x")
    assert r"pretrained $\nu$" in "".join(ET.fromstring(svg).itertext())
