"""Command lines of plain flags, whose mistakes are one line like every other error."""

import argparse
from typing import NoReturn

from fomo_ssl.core.errors import ConfigError


class Arguments(argparse.ArgumentParser):
    """argparse without the usage text in front of errors; `entry` turns them into one line and exit code 2."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(message, way_out=f"see {self.prog} --help")
