"""Damaged copies of good files: what a disk, a broken download or a careless program makes of them."""

import gzip
import io
import struct
import zipfile
from dataclasses import dataclass

import numpy as np

KINDS = ("nii", "gz", "zip_stored_gz", "zip_deflated_gz", "zip_stored_nii", "zip_deflated_nii")
MEMBER = "sub-01/ses-01/anat/T1w"


@dataclass(frozen=True)
class Mutant:
    """A damaged file.

    Attributes:
        name: file name; a member of an archive is called `member`.
        image: the bytes of the .nii that was packed, where the header was changed before packing; None where the
            bytes of the file were damaged, which check values reveal unless the file has none.
        what: what was done.
    """

    name: str
    content: bytes
    image: bytes | None
    what: str
    member: str | None

    @property
    def has_check_value(self) -> bool:
        return not self.name.endswith(".nii")


def packed(image: bytes, kind: str, number: int) -> tuple[str, bytes, str | None]:
    """File name, content and member of a .nii in one of the `KINDS`."""
    if kind == "nii":
        return f"{number:04d}.nii", image, None
    if kind == "gz":
        return f"{number:04d}.nii.gz", gzip.compress(image, 3), None
    _, way, form = kind.split("_")
    member = f"{MEMBER}.nii.gz" if form == "gz" else f"{MEMBER}.nii"
    method = zipfile.ZIP_STORED if way == "stored" else zipfile.ZIP_DEFLATED
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        archive.writestr(zipfile.ZipInfo(member), gzip.compress(image, 3) if form == "gz" else image, method)
    return f"{number:04d}.zip", file.getvalue(), member


def mutant(image: bytes, number: int, rng: np.random.Generator) -> Mutant:
    """The mutant of a number: kinds take turns, damage is drawn."""
    kind = KINDS[number % len(KINDS)]
    if rng.random() < 0.35:
        changed, what = _changed_header(image, rng)
        name, content, member = packed(changed, kind, number)
        return Mutant(name, content, changed, f"{kind}: {what}", member)
    name, content, member = packed(image, kind, number)
    damaged, what = _damaged(content, rng)
    return Mutant(name, damaged, None, f"{kind}: {what}", member)


def _damaged(content: bytes, rng: np.random.Generator) -> tuple[bytes, str]:
    size = len(content)
    at, length = int(rng.integers(size)), int(rng.integers(1, 64))
    what = str(rng.choice(["truncate", "flip", "edge", "zeros", "insert", "delete", "swap", "trailer"]))
    if what == "truncate":
        return content[:at], f"cut to {at} of {size} bytes"
    if what in ("flip", "edge"):
        # Headers, directories and check values lie at the edges.
        places = rng.integers(0, min(size, 120), 2) if what == "edge" else rng.integers(0, size, rng.integers(1, 5))
        places = [int(place) if rng.random() < 0.5 else size - 1 - int(place) for place in places]
        changed = bytearray(content)
        for place in places:
            changed[place] ^= int(rng.integers(1, 256))
        return bytes(changed), f"bytes {places} of {size} changed"
    if what == "zeros":
        return content[:at] + bytes(len(content[at : at + length])) + content[at + length :], f"zeros at {at}"
    if what == "insert":
        return content[:at] + rng.bytes(length) + content[at:], f"{length} bytes put in at {at} of {size}"
    if what == "delete":
        return content[:at] + content[at + length :], f"{length} bytes left out at {at} of {size}"
    if what == "swap":
        half = size // 2
        return content[half:] + content[:half], "halves swapped"
    # The check value of gzip, or the end of an archive's directory.
    changed = bytearray(content)
    changed[-8 + int(rng.integers(8))] ^= int(rng.integers(1, 256))
    return bytes(changed), "one of the last eight bytes changed"


# Field: (offset in the NIfTI-1 header, format, values).
_FIELDS = {
    "sizeof_hdr": (0, "<i", (0, 347, 540, 2**31 - 1, -1)),
    "dim[0]": (40, "<h", (0, 1, 2, 4, 5, 7, 8, -3, 999)),
    "dim[1]": (42, "<h", (0, 1, -17, 3, 32767)),
    "dim[3]": (46, "<h", (0, 1, 5, 300, 32767)),
    "dim[4]": (48, "<h", (0, 2, 32767)),
    "datatype": (70, "<h", (0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 768, 1024, 1536, 1792, 2048, 2304, 9999)),
    "pixdim[1]": (80, "<f", (0.0, -2.0, 1e9, float("nan"), float("inf"))),
    "vox_offset": (108, "<f", (0.0, 100.0, 352.5, 1e6, 1e30, -352.0, float("nan"), float("inf"))),
    "scl_slope": (112, "<f", (0.0, -1.0, 1e38, 1e-38, float("nan"), float("inf"))),
    "scl_inter": (116, "<f", (5.0, 1e38, float("nan"), float("-inf"))),
    "sform_code": (254, "<h", (0, -1, 4, 30000)),
    "srow_x": (280, "<f", (0.0, 1e30, float("nan"))),
    "magic": (344, "<i", (0, 0x0031696E, 0x0032_2B6E, -1)),
}


def _changed_header(image: bytes, rng: np.random.Generator) -> tuple[bytes, str]:
    changed = bytearray(image)
    if rng.random() < 0.2:
        edges = [int(edge) for edge in rng.integers(400, 32767, 3)]
        struct.pack_into("<3h", changed, 42, *edges)
        return bytes(changed), f"header claims {edges}"
    if rng.random() < 0.3:
        place, value = int(rng.integers(348)), int(rng.integers(256))
        changed[place] = value
        return bytes(changed), f"header byte {place} = {value}"
    field = str(rng.choice(list(_FIELDS)))
    offset, form, values = _FIELDS[field]
    value = values[int(rng.integers(len(values)))]
    struct.pack_into(form, changed, offset, value)
    return bytes(changed), f"{field} = {value}"


_TYPES = {
    2: "u1",
    4: "<i2",
    8: "<i4",
    16: "<f4",
    64: "<f8",
    256: "i1",
    512: "<u2",
    768: "<u4",
    1024: "<i8",
    1280: "<u8",
}


def plainly_read(image: bytes) -> np.ndarray:
    """The voxels that a little-endian NIfTI-1 file describes, by the standard and without any check; NaN as 0."""
    dims = struct.unpack_from("<8h", image, 40)
    shape = [size for at, size in enumerate(dims[1 : dims[0] + 1]) if at < 3 or size != 1]
    offset, slope, inter = struct.unpack_from("<3f", image, 108)
    dtype = np.dtype(_TYPES[struct.unpack_from("<h", image, 70)[0]])
    voxels = np.frombuffer(image, dtype, int(np.prod(shape)), int(offset)).astype(np.float64)
    if slope != 0 and np.isfinite(slope):
        voxels = voxels * slope + inter
    with np.errstate(over="ignore"):
        voxels = voxels.astype(np.float32)
    return np.where(np.isfinite(voxels), voxels, np.float32(0)).reshape(shape, order="F")
