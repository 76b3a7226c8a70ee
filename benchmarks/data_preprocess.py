"""CPU seconds a scan by stage, beside the usual way; and what our resampling costs in quality.

    python benchmarks/data_preprocess.py --source FOMO_FLAT --scratch FOLDER [--spacing 1.0] [--limit 58]

One thread. The usual way is that of FOMO25's baseline: nibabel, closest canonical orientation, box of non-zero voxels,
`skimage.transform.resize` of order 3, z-score, `np.save`. Quality: PSNR against third-order spline resampling
(`scipy.ndimage.map_coordinates`, the same positions), over scans that are not made coarser: there ours smooths on
purpose and the spline aliases.
"""

import argparse
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from scipy import ndimage

from fomo_ssl.core.errors import RejectedScan
from fomo_ssl.corpus.codec import LARGEST, compress_within, quantise
from fomo_ssl.imaging.canonical import CanonicalSpec, canonicalise, target_spacing
from fomo_ssl.imaging.foreground import foreground_box, foreground_mask
from fomo_ssl.imaging.nifti import read
from fomo_ssl.imaging.orientation import to_ras
from fomo_ssl.imaging.resample import output_shape, resample, sample_positions

seconds: dict[str, float] = defaultdict(float)


@contextmanager
def stage(name: str) -> Iterator[None]:
    began = time.process_time()
    yield
    seconds[name] += time.process_time() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--source", type=Path, required=True)
    parser.add_argument("--scratch", type=Path, required=True)
    parser.add_argument("--spacing", type=float, default=1.0)
    parser.add_argument("--limit", type=int, default=58)
    options = parser.parse_args()
    options.scratch.mkdir(parents=True, exist_ok=True)
    files = sorted(options.source.rglob("*.nii.gz"))[: options.limit]
    spec = CanonicalSpec(options.spacing)
    quality = []
    for file in files:
        try:
            ours(file, spec, options.scratch / "scan.b2nd")
        except RejectedScan:
            continue
        usual(file, spec, options.scratch / "scan.npy")
        quality.append(psnr(file, spec))
    known = [value for value in quality if value is not None]
    print(f"{len(quality)} scans to {options.spacing:g} mm, CPU seconds a scan, one thread\n")
    print("| stage | CPU s |\n|---|---|")
    for name, total in seconds.items():
        print(f"| {name} | {total / len(quality):.3f} |")
    print(f"\nPSNR against third-order splines over {len(known)} scans that are not made coarser: "
          f"median {np.median(known):.1f} dB, lowest {min(known):.1f} dB")  # fmt: skip


def ours(file: Path, spec: CanonicalSpec, target: Path) -> None:
    with stage("ours: read"):
        volume = read(file)
    with stage("ours: all of canonical form"):
        canonical = canonicalise(volume, spec)
    with stage("ours: quantise, compress, write"):
        target.write_bytes(compress_within(quantise(canonical), LARGEST)[1])
    # Again by its parts; the sum above holds what counts.
    with stage("of it: orientation"):
        ras = to_ras(volume)
    with stage("of it: foreground"):
        box = foreground_box(foreground_mask(ras.data), (5, 5, 5))
    cut = ras.data[box]
    with stage("of it: resample"):
        resample(cut, ras.spacing, target_spacing(ras.spacing, spec), "cubic")


def usual(file: Path, spec: CanonicalSpec, target: Path) -> None:
    """To the spacing that ours chooses, which leaves thick slices thicker, so that both make as many voxels."""
    import nibabel
    from skimage.transform import resize

    with stage("usual: read"):
        image = nibabel.as_closest_canonical(nibabel.load(file))
        data = image.get_fdata(dtype=np.float32)
    with stage("usual: box, resample, z-score"):
        inside = np.argwhere(data)
        low, high = inside.min(0), inside.max(0) + 1
        data = data[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
        edges = image.header.get_zooms()[:3]
        spacing = target_spacing(edges, spec)
        shape = [max(1, round(n * e / to)) for n, e, to in zip(data.shape, edges, spacing, strict=True)]
        data = resize(data, shape, order=3, preserve_range=True, anti_aliasing=False)
        data = (data - data.mean()) / data.std()
    with stage("usual: write"):
        np.save(target, data.astype(np.float32))


def psnr(file: Path, spec: CanonicalSpec) -> float | None:
    """Of our cubic kernel against the spline at the same positions, over the range of the scan; None where coarser."""
    volume = to_ras(read(file))
    target = target_spacing(volume.spacing, spec)
    if any(t > s * 1.001 for t, s in zip(target, volume.spacing, strict=True)) or target == volume.spacing:
        return None
    found = resample(volume.data, volume.spacing, target, "cubic")
    sizes = output_shape(volume.data.shape, volume.spacing, target)
    grids = [
        sample_positions(n, m, t / s)
        for n, m, s, t in zip(volume.data.shape, sizes, volume.spacing, target, strict=True)
    ]
    truth = volume.data.astype(np.float32)
    for axis, positions in enumerate(grids):  # a spline is separable too
        truth = np.apply_along_axis(
            lambda line, at=positions: ndimage.map_coordinates(line, [at], order=3, mode="nearest"), axis, truth
        )
    span = float(volume.data.max() - volume.data.min())
    return 10 * np.log10(span**2 / float(np.mean((found - truth) ** 2)))


if __name__ == "__main__":
    main()
