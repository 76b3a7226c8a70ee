"""Errors that users can act on: one line that says what, where and the way out."""

import enum
import errno
import functools
import os
import sys
from collections.abc import Callable
from typing import ParamSpec

_P = ParamSpec("_P")

_UNUSABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG)
"""What the system says of a path that somebody chose; its other errors may be bugs."""


class FomoSSLError(Exception):
    """Base of every error that is the input's fault and not a bug. Entry points exit with code 2."""

    def __init__(self, what: str, *, where: str | os.PathLike[str] | None = None, way_out: str | None = None) -> None:
        self.what, self.where, self.way_out = what, None if where is None else str(where), way_out
        parts = [what if where is None else f"{where}: {what}"]
        if way_out:
            parts.append(way_out)
        super().__init__(". ".join(part.rstrip(".") for part in parts).replace("\n", " "))


class ConfigError(FomoSSLError):
    """A configuration value is missing, misspelt or out of range."""


class UnknownNameError(FomoSSLError):
    """A name is not in a registry."""


class StoreError(FomoSSLError):
    """A store is missing, incomplete or of another schema."""


class TaskError(FomoSSLError):
    """A downstream task cannot be read: no labels, missing sequences, wrong layout."""


class BundleError(FomoSSLError):
    """A bundle is missing, damaged or of a newer schema."""


class ForeignWeightsError(FomoSSLError):
    """Weights of another project cannot be read, or do not fit the encoder they are meant for."""


class RunError(FomoSSLError):
    """A run directory cannot be used: other configuration, damaged checkpoint, disk full."""


class NonFiniteLossError(FomoSSLError):
    """The loss became NaN or infinite; names the scans of the batch."""


class CollapseError(FomoSSLError):
    """The embeddings of different scans have become the same; names the monitor and its value."""


class Reason(enum.StrEnum):
    """Why a scan was rejected. Values are what `quarantine.csv` holds."""

    EMPTY_FILE = "empty_file"
    NOT_NIFTI = "not_nifti"
    BAD_HEADER = "bad_header"
    BAD_GZIP = "bad_gzip"
    TRUNCATED = "truncated"
    TOO_LARGE = "too_large"
    WRONG_EXTENSION = "wrong_extension"
    NOT_SCALAR = "not_scalar"
    NOT_3D = "not_3d"
    SEVERAL_VOLUMES = "several_volumes"
    TOO_FEW_SLICES = "too_few_slices"
    BAD_SPACING = "bad_spacing"
    BAD_AFFINE = "bad_affine"
    HEADER_WITHOUT_IMAGE = "header_without_image"
    IS_ARCHIVE = "is_archive"
    BAD_ZIP = "bad_zip"
    BAD_GRADIENTS = "bad_gradients"
    CONSTANT = "constant"
    NON_FINITE = "non_finite"
    TOO_SMALL = "too_small"
    UNREADABLE = "unreadable"
    BAD_MASK = "bad_mask"


class RejectedScan(FomoSSLError):  # noqa: N818 - a verdict on a scan, not a failure of the program
    """A scan that is not used, with the typed reason.

    Attributes:
        reason: one of `Reason`.
        detail: what was found, for `quarantine.csv`.
    """

    def __init__(self, reason: Reason, detail: str, *, where: str | os.PathLike[str] | None = None) -> None:
        self.reason, self.detail = reason, detail
        super().__init__(f"{reason.value}: {detail}", where=where)


def entry(main: Callable[_P, None]) -> Callable[_P, None]:
    """Turn errors into exit codes: `FomoSSLError` -> one line and 2, Ctrl-C -> 130.

    So do a full disk and a path that cannot be used: no right to it, read-only, a file where a folder should be.
    """

    @functools.wraps(main)
    def wrapped(*args: _P.args, **kwargs: _P.kwargs) -> None:
        try:
            main(*args, **kwargs)
        except FomoSSLError as error:
            print(f"fomo_ssl: {error}", file=sys.stderr)
            raise SystemExit(2) from None
        except KeyboardInterrupt:
            print("fomo_ssl: interrupted", file=sys.stderr)
            raise SystemExit(130) from None
        except OSError as error:
            if is_disk_full(error):
                what, way_out = "no space left on the device", "Free space and run again"
            elif error.errno in _UNUSABLE and error.filename:
                what, way_out = str(error.strerror).lower(), "Choose another path, or change its rights"
            else:
                raise
            print(f"fomo_ssl: {error.filename or 'disk'}: {what}. {way_out}", file=sys.stderr)
            raise SystemExit(2) from None

    return wrapped


def is_disk_full(error: BaseException) -> bool:
    """Whether an error, or one it was raised from, says that the disk or the quota is full."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        seen = seen.__cause__ or seen.__context__
    return False
