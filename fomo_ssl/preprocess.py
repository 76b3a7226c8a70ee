"""Turn a tree of NIfTI scans into a store that pretraining reads; run again to continue or to add new scans."""

import os
from typing import TYPE_CHECKING, Any

from fomo_ssl.config import hydra_main
from fomo_ssl.core.errors import ConfigError
from fomo_ssl.core.values import boolean, choice, path

if TYPE_CHECKING:
    from fomo_ssl.corpus.slurm import SlurmConfig


@hydra_main("preprocess")
def main(config: dict[str, Any]) -> None:
    """Compose the configuration, check its values, preprocess and show the summary."""
    # Imported here: worker processes import this module as their main module and need none of it.
    from rich.console import Console

    from fomo_ssl.corpus.preprocess import preprocess
    from fomo_ssl.imaging.canonical import CanonicalSpec

    spacing = None if config["spacing"] is None else _at_least(config, "spacing", 0.1)
    crop_foreground = boolean(config["crop_foreground"], "crop_foreground")
    spec = CanonicalSpec(spacing, _at_least(config, "max_upsample", 1.0), crop_foreground)
    workers = _cores() if config["workers"] is None else int(_at_least(config, "workers", 1.0))
    min_slices = int(_at_least(config, "min_slices", 1.0))
    max_voxels = int(_at_least(config, "max_voxels", 1.0))
    source, store, array = path(config["source"], "source"), path(config["store"], "store"), _array(config)
    masks = {kind: None if rule is None else str(rule) for kind, rule in config["masks"].items()}
    preprocess(
        source,
        store,
        spec,
        workers=workers,
        min_slices=min_slices,
        max_voxels=max_voxels,
        masks=masks,
        slurm=array,
        console=Console(),
    )


def _array(config: dict[str, Any]) -> "SlurmConfig | None":
    """The array of tasks that is asked for."""
    from fomo_ssl.corpus.slurm import SlurmConfig

    executor: str = choice(config["executor"], "executor", ("local", "slurm"))
    if executor == "local":
        return None
    values = dict(config["slurm"])
    cluster: Any = choice(values.pop("cluster"), "slurm.cluster", ("slurm", "local"))
    sizes = {key: int(_at_least(values, key, 1.0)) for key in ("tasks", "parallel", "cpus", "memory_gb", "minutes")}
    return SlurmConfig(**{**values, **sizes}, cluster=cluster)


def _at_least(config: dict[str, Any], key: str, least: float) -> float:
    value = config[key]
    if isinstance(value, bool) or not isinstance(value, int | float) or value < least:
        raise ConfigError(f"{key}={value!r}", way_out=f"Give a number of at least {least:g}")
    return float(value)


def _cores() -> int:
    """Cores that this process may use: on a shared machine fewer than there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


if __name__ == "__main__":
    main()
