from pathlib import Path

import pytest

from fomo_ssl.core.errors import ConfigError
from fomo_ssl.core.values import choice, integer, number, path, triple


@pytest.mark.parametrize(("value", "expected"), [(3, 3), (1e6, 1_000_000)])
def test_integer(value: float, expected: int) -> None:
    assert integer(value, "k") == expected
    assert type(integer(value, "k")) is int


@pytest.mark.parametrize("value", [0, -1, 1.5, "3", None, True, float("inf"), float("nan"), 2**63, 10**400])
def test_no_integer(value: object) -> None:
    with pytest.raises(ConfigError, match="k="):
        integer(value, "k")


def test_number() -> None:
    assert number(1, "k") == 1.0
    assert type(number(1, "k")) is float
    for bad in (-0.1, "1", None, True, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match="k="):
            number(bad, "k")


def test_triple() -> None:
    assert triple(4, "k") == (4, 4, 4)
    assert triple([4, 5, 6], "k") == (4, 5, 6)
    for bad in ([1, 2], "ab", [1, 2, 0]):
        with pytest.raises(ConfigError):
            triple(bad, "k")


def test_choice() -> None:
    assert choice("auto", "resume", ("auto", "never")) == "auto"
    with pytest.raises(ConfigError, match="Did you mean never"):
        choice("nevr", "resume", ("auto", "never"))


@pytest.mark.parametrize(("value", "expected"), [("a/b", "a/b"), (2026, "2026"), (Path("a"), "a")])
def test_path(value: object, expected: str) -> None:
    assert path(value, "k") == Path(expected)


@pytest.mark.parametrize("value", [None, "", [], ["a"], True, 1.5])
def test_no_path(value: object) -> None:
    with pytest.raises(ConfigError, match="Give k=PATH"):
        path(value, "k")
