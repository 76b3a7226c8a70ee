"""Modules from outside the package that register encoders or objectives of their own.

Named by the variable `FOMO_SSL_IMPORT` (`my_nets,my_losses`), which every command and all its worker processes read, or
by an installed package as an entry point of the group `fomo_ssl.plugins`.
"""

import functools
import importlib
import importlib.metadata
import os

from fomo_ssl.core.errors import ConfigError

VARIABLE, GROUP = "FOMO_SSL_IMPORT", "fomo_ssl.plugins"


@functools.cache
def load_plugins() -> None:
    """Import them, once a process.

    Raises:
        ConfigError: one cannot be imported.
    """
    named = [name.strip() for name in os.environ.get(VARIABLE, "").split(",") if name.strip()]
    installed = [point.value for point in importlib.metadata.entry_points(group=GROUP)]
    for name in dict.fromkeys([*installed, *named]):
        try:
            importlib.import_module(name)
        except ImportError as error:
            where = VARIABLE if name in named else f"an entry point of {GROUP}"
            raise ConfigError(f"{where} names {name}, which cannot be imported: {error}") from error
