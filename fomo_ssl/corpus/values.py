"""Cells of metadata tables as values: ages, sex, field strength and manufacturer in the forms that occur."""

import re

_MISSING = {"", "n/a", "na", "nan", "none", "null", "unknown", "-"}
_YEARS_PER = {"": 1.0, "y": 1.0, "m": 1 / 12, "w": 7 / 365.25, "d": 1 / 365.25}
_AGE = re.compile(r"(\d+(?:\.\d+)?)\s*([ymwd]?)\+?", re.IGNORECASE)
_AGE_RANGE = re.compile(r"(\d+(?:\.\d+)?)\s*y?\s*[-\u2013]\s*(\d+(?:\.\d+)?)\s*y?", re.IGNORECASE)
_OLDEST = 120.0
_MAKERS = {
    "siemens": "Siemens",
    "general electric": "GE",
    "ge": "GE",
    "philips": "Philips",
    "toshiba": "Toshiba",
    "canon": "Canon",
    "hitachi": "Hitachi",
    "bruker": "Bruker",
}
# Above this no magnet is meant in tesla: tables hold 15000 for 1.5 T.
_GAUSS_FROM = 100.0


def is_missing(text: str) -> bool:
    """Whether a cell says that nothing is known."""
    return text.strip().lower() in _MISSING


def parse_age(text: str) -> tuple[float, float] | None:
    """(low, high) in years of "35", "35.5", "080Y", "6M", "90+" or "20-30"; None where it tells nothing.

    A leading minus tells nothing, nor does an age above 120.
    """
    text = text.strip()
    if match := _AGE.fullmatch(text):
        low = high = float(match[1]) * _YEARS_PER[match[2].lower()]
    elif match := _AGE_RANGE.fullmatch(text):
        low, high = float(match[1]), float(match[2])
    else:
        return None
    return (low, high) if low <= high <= _OLDEST else None


def parse_sex(text: str | None) -> str | None:
    """ "M", "F", or as written."""
    if text is None:
        return None
    return {"male": "M", "m": "M", "female": "F", "f": "F"}.get(text.lower(), text)


def parse_field_strength(text: str | None) -> float | None:
    """Tesla; numbers of 100 or more are gauss."""
    try:
        number = None if text is None else float(text)
    except ValueError:
        return None
    if number is None or not 0 < number < float("inf"):
        return None
    return number / 10_000 if number >= _GAUSS_FROM else number


def parse_manufacturer(text: str | None) -> str | None:
    """One spelling for each maker ("SIEMENS", "Siemens Healthineers" -> "Siemens"), else as written."""
    if text is None:
        return None
    lower = text.lower()
    return next((name for start, name in _MAKERS.items() if re.match(rf"{start}\b", lower)), text)
