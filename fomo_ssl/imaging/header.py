"""NIfTI-1, NIfTI-2 and Analyze 7.5 headers: what a file claims, checked before any voxel is read.

Format: https://nifti.nimh.nih.gov/nifti-1 and nifti-2. nibabel knows the byte layouts; the judgement is made here.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from nibabel.analyze import AnalyzeHeader
from nibabel.nifti1 import Nifti1Header
from nibabel.nifti2 import Nifti2Header
from nibabel.quaternions import fillpositive, quat2mat
from nibabel.spatialimages import HeaderDataError

from fomo_ssl.core.errors import Reason, RejectedScan

SIZE_NIFTI1, SIZE_NIFTI2 = 348, 540
# Human heads: 0.05 mm is finer than any ex-vivo scan, 30 mm thicker than any slice that shows anatomy.
MIN_SPACING, MAX_SPACING = 0.05, 30.0
# nibabel writes quaternions as float32: a rotation is known to about 1e-3 at best.
AFFINE_TOLERANCE = 1e-2


@dataclass(frozen=True)
class Header:
    """What is needed to read the voxels.

    Attributes:
        shape: 3 sizes, or 4 where several volumes follow one another.
        dtype: stored type with its byte order.
        offset: bytes before the first voxel.
        slope, inter: value = stored * slope + inter.
        affine: voxel -> mm RAS+, float64 (4, 4).
        notes: legal oddities.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    offset: int
    slope: float
    inter: float
    affine: np.ndarray
    notes: tuple[str, ...]

    @property
    def voxels(self) -> int:
        return int(np.prod(self.shape, dtype=object))

    @property
    def data_bytes(self) -> int:
        return self.voxels * self.dtype.itemsize


def header_size(start: bytes) -> int:
    """Bytes of the header that begins with `start` (4 bytes or more).

    Raises:
        RejectedScan: NOT_NIFTI, the first number is neither 348 nor 540 in either byte order.
    """
    for order in ("little", "big"):
        size = int.from_bytes(start[:4], order)
        if size in (SIZE_NIFTI1, SIZE_NIFTI2):
            return size
    raise RejectedScan(Reason.NOT_NIFTI, f"starts with {start[:16]!r}, not with a header size of 348 or 540")


def parse_header(raw: bytes, *, single_file: bool) -> Header:
    """Read and judge a header.

    Args:
        raw: exactly `header_size` bytes.
        single_file: voxels follow in the same file (.nii), not in a .img beside it.

    Raises:
        RejectedScan: BAD_HEADER, NOT_SCALAR, NOT_3D, TOO_FEW_SLICES, BAD_SPACING or BAD_AFFINE.
    """
    header, notes = _nibabel_header(raw, single_file)
    shape = _shape(header, notes)
    affine = _affine(header, notes)
    _check_spacing(affine)
    slope, inter = _scaling(header, notes)
    return Header(shape, _dtype(header), _offset(header, len(raw), single_file), slope, inter, affine, tuple(notes))


def _nibabel_header(raw: bytes, single_file: bool) -> tuple[Any, list[str]]:
    is_nifti2 = len(raw) == SIZE_NIFTI2
    magic = raw[4:12] if is_nifti2 else raw[344:348]
    wanted = (b"n+2", b"ni2") if is_nifti2 else (b"n+1", b"ni1")
    notes: list[str] = []
    kind: Any = Nifti2Header if is_nifti2 else Nifti1Header
    if magic[:3] not in wanted:
        if single_file or is_nifti2:
            raise RejectedScan(Reason.BAD_HEADER, f"magic is {magic!r}, expected {wanted[0]!r}")
        kind = AnalyzeHeader
        notes.append("analyze 7.5")
    elif is_nifti2:
        notes.append("nifti-2")
    header = kind(raw, check=False)
    if header.endianness == ">":
        notes.append("big endian")
    return header, notes


def _shape(header: Any, notes: list[str]) -> tuple[int, ...]:
    count = int(header["dim"][0])
    if not 1 <= count <= 7:
        raise RejectedScan(Reason.BAD_HEADER, f"dim[0] is {count}, expected 1 to 7")
    shape = tuple(int(size) for size in header["dim"][1 : count + 1])
    if min(shape) < 1:
        raise RejectedScan(Reason.BAD_HEADER, f"dimensions {shape} are not all positive")
    if len(shape) < 3 or max(shape[4:], default=1) > 1:
        raise RejectedScan(Reason.NOT_3D, f"shape {shape}")
    if min(shape[:3]) == 1:
        raise RejectedScan(Reason.TOO_FEW_SLICES, f"shape {shape}: a single slice is no volume")
    if len(shape) > 3:
        shape = shape[:4]
        if shape[3] == 1:
            notes.append("trailing axis of one volume")
            shape = shape[:3]
    return shape


def _dtype(header: Any) -> np.dtype:
    code = int(header["datatype"])
    try:
        dtype: np.dtype = np.dtype(header.get_data_dtype())
    except (HeaderDataError, KeyError) as error:
        raise RejectedScan(Reason.BAD_HEADER, f"data type code {code} is unknown") from error
    if dtype.kind not in "iuf" or dtype.itemsize > 8:
        raise RejectedScan(Reason.NOT_SCALAR, f"voxels of type {dtype} (code {code})")
    return dtype


def _offset(header: Any, size: int, single_file: bool) -> int:
    raw = float(header["vox_offset"])
    least = size + 4 if single_file else 0
    if not np.isfinite(raw) or raw < least:
        raise RejectedScan(Reason.BAD_HEADER, f"voxels start at byte {raw:g}, expected {least} or later")
    return int(raw)


def _scaling(header: Any, notes: list[str]) -> tuple[float, float]:
    if isinstance(header, AnalyzeHeader) and "scl_slope" not in header.keys():  # noqa: SIM118 - no __contains__
        return 1.0, 0.0
    slope, inter = float(header["scl_slope"]), float(header["scl_inter"])
    if slope == 0 or not np.isfinite(slope):
        # The standard: no scaling is to be done; 0 is the common default, anything else deserves a word.
        if slope != 0 or inter != 0:
            notes.append("no scaling: slope is 0 or not finite")
        return 1.0, 0.0
    if not np.isfinite(inter):
        raise RejectedScan(Reason.BAD_HEADER, f"slope {slope:g} with intercept {inter:g}")
    return slope, inter


def _affine(header: Any, notes: list[str]) -> np.ndarray:
    """The sform, else the qform, else axes along x, y, z with the header's voxel sizes (the standard's method 1)."""
    is_nifti = "sform_code" in header.keys()  # noqa: SIM118 - no __contains__
    sform = header.get_sform() if is_nifti and header["sform_code"] > 0 else None
    qform = _qform(header) if is_nifti and header["qform_code"] > 0 else None
    coded = [(name, matrix) for name, matrix in (("sform", sform), ("qform", qform)) if matrix is not None]
    usable = [(name, np.asarray(matrix, np.float64)) for name, matrix in coded if is_usable(matrix)]
    if coded and not usable:
        raise RejectedScan(Reason.BAD_AFFINE, f"{coded[0][0]} is singular or not finite")
    if not coded:
        notes.append("no orientation: axes taken as right, anterior, superior")
        return np.diag([*np.abs(header["pixdim"][1:4].astype(np.float64)), 1.0])
    if len(usable) < len(coded):
        notes.append(f"{usable[0][0]} taken: the other form is singular or not finite")
    elif len(usable) == 2 and not np.allclose(usable[0][1], usable[1][1], atol=AFFINE_TOLERANCE, rtol=AFFINE_TOLERANCE):
        notes.append("sform and qform disagree: sform taken")
    matrix = usable[0][1]
    axes = matrix[:3, :3] / np.linalg.norm(matrix[:3, :3], axis=0)
    if not np.allclose(axes.T @ axes, np.eye(3), atol=AFFINE_TOLERANCE):
        notes.append("sheared axes")
    return matrix


def is_usable(matrix: np.ndarray) -> bool:
    """Whether an affine (4, 4) places voxels in space: finite, and with three axes that are no plane."""
    return bool(np.isfinite(matrix).all() and abs(np.linalg.det(matrix[:3, :3])) > MIN_SPACING**3 / 10)


def _qform(header: Any) -> np.ndarray:
    """The qform with the tolerance of other readers: sizes by absolute value, qfac 0 as 1, NaN where not a rotation."""
    matrix = np.eye(4)
    try:
        quaternion = fillpositive([float(header[f"quatern_{axis}"]) for axis in "bcd"], w2_thresh=-1e-5)
        matrix[:3, :3] = quat2mat(quaternion)
    except ValueError:
        return np.full((4, 4), np.nan)
    sizes = np.abs(header["pixdim"][1:4].astype(np.float64))
    sizes[2] *= -1.0 if header["pixdim"][0] < 0 else 1.0
    with np.errstate(invalid="ignore"):
        matrix[:3, :3] *= sizes
    matrix[:3, 3] = [float(header[f"qoffset_{axis}"]) for axis in "xyz"]
    return matrix


def _check_spacing(affine: np.ndarray) -> None:
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    if not (np.isfinite(spacing).all() and (spacing >= MIN_SPACING).all() and (spacing <= MAX_SPACING).all()):
        sizes = " x ".join(f"{size:g}" for size in spacing)
        raise RejectedScan(Reason.BAD_SPACING, f"{sizes} mm, expected {MIN_SPACING:g} to {MAX_SPACING:g}")
