import pytest
from hypothesis import given
from hypothesis import strategies as st

from fomo_ssl.corpus.values import parse_age, parse_field_strength, parse_manufacturer, parse_sex


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("35", (35, 35)),
        ("35.5", (35.5, 35.5)),
        ("080Y", (80, 80)),
        ("45y", (45, 45)),
        ("6M", (0.5, 0.5)),
        ("20-30", (20, 30)),
        ("20 - 30y", (20, 30)),
        ("20Y-30Y", (20, 30)),
        ("90+", (90, 90)),
        (" 7 ", (7, 7)),
        ("", None),
        ("n/a", None),
        ("-5", None),
        ("30-20", None),
        ("300", None),
        ("old", None),
    ],
)
def test_ages(text, wanted):
    assert parse_age(text) == wanted


@given(st.text(max_size=12))
def test_any_text_is_an_age_in_range_or_none(text):
    age = parse_age(text)
    assert age is None or 0 <= age[0] <= age[1] <= 120


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("3", 3), ("15000", 1.5), ("1.494", 1.494), ("0", None), ("nan", None), ("x", None), (None, None)],
)
def test_field_strengths(text, wanted):
    assert parse_field_strength(text) == wanted


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("SIEMENS", "Siemens"),
        ("Siemens Healthineers", "Siemens"),
        ("GE MEDICAL SYSTEMS", "GE"),
        ("General Electric", "GE"),
        ("Philips Medical Systems", "Philips"),
        ("Gemini", "Gemini"),
        (None, None),
    ],
)
def test_manufacturers(text, wanted):
    assert parse_manufacturer(text) == wanted


@pytest.mark.parametrize(("text", "wanted"), [("female", "F"), ("m", "M"), ("other", "other"), (None, None)])
def test_sexes(text, wanted):
    assert parse_sex(text) == wanted
