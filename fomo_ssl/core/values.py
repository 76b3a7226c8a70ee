"""Values of a configuration as the typed ones that they should be; the error names the key."""

import difflib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fomo_ssl.core.errors import ConfigError


def integer(value: Any, key: str, minimum: int = 1) -> int:
    """A whole number of at most 63 bits; `1e6` is one.

    Raises:
        ConfigError: no whole number, below `minimum`, or too large.
    """
    whole = isinstance(value, int | float) and not isinstance(value, bool) and value % 1 == 0
    if not whole or value < minimum:
        raise ConfigError(f"{key}={value} is no whole number of at least {minimum}", way_out=f"Give {key}={minimum}")
    if value >= 2**63:
        raise ConfigError(f"{key}={value} is too large", way_out="Give at most 9223372036854775807")
    return int(value)


def number(value: Any, key: str, minimum: float = 0.0) -> float:
    """A finite number.

    Raises:
        ConfigError: no number, or below `minimum`.
    """
    if not isinstance(value, int | float) or isinstance(value, bool) or not minimum <= value < math.inf:
        raise ConfigError(f"{key}={value} is no number of at least {minimum:g}", way_out=f"Give {key}={minimum:g}")
    return float(value)


def share(value: Any, key: str) -> float:
    """A part of a whole, 0 to 1.

    Raises:
        ConfigError: no number, or outside; a count, such as of steps, is meant then.
    """
    part = number(value, key)
    if part > 1.0:
        raise ConfigError(f"{key}={value} is a share and no count: at most 1", way_out=f"Give {key}=0.05, for 5 %")
    return part


def triple(value: Any, key: str) -> tuple[int, int, int]:
    """Three positive whole numbers along x, y, z; one number stands for three.

    Raises:
        ConfigError: anything else.
    """
    values = value if isinstance(value, list | tuple) else [value] * 3
    if len(values) != 3:
        raise ConfigError(
            f"{key}={value} is neither one number nor three", way_out=f"Give {key}=96 or {key}=[96,96,64]"
        )
    x, y, z = (integer(v, key) for v in values)
    return x, y, z


def boolean(value: Any, key: str) -> bool:
    """True or false.

    Raises:
        ConfigError: neither.
    """
    if not isinstance(value, bool):
        raise ConfigError(f"{key}={value} is neither true nor false", way_out=f"Give {key}=true or {key}=false")
    return value


def choice(value: Any, key: str, options: Sequence[str]) -> str:
    """One of some words.

    Raises:
        ConfigError: another word.
    """
    if value not in options:
        raise ConfigError(f"{key}={value} is none of {', '.join(options)}", way_out=near(str(value), options))
    return str(value)


def path(value: Any, key: str) -> Path:
    """A file or a folder.

    Raises:
        ConfigError: null, a list or anything else that no path is made of.
    """
    # A folder may be called 2026, which Hydra reads as a number.
    if value is None or value == "" or not isinstance(value, str | int | Path) or isinstance(value, bool):
        raise ConfigError(f"{key}={value} is no path", way_out=f"Give {key}=PATH")
    return Path(str(value))


def near(name: str, known: Sequence[str]) -> str:
    """The way out for a misspelt name: near ones, or all."""
    found = difflib.get_close_matches(name, known, n=3, cutoff=0.6)
    return f"Did you mean {', '.join(found)}?" if found else f"Known: {', '.join(sorted(known))}"
