"""A build context: a folder from which Apptainer or Docker make the container of one task, weights inside."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import fomo_ssl
from fomo_ssl.bundle import bundle_digest
from fomo_ssl.challenge import recipes
from fomo_ssl.challenge.contract import TASKS, check_model
from fomo_ssl.core.errors import ConfigError
from fomo_ssl.core.files import atomic_folder, write_json, write_text
from fomo_ssl.downstream.inference import load_models

FACTS = "challenge.json"
_WEIGHTS = ("config.json", "task.json", "encoder.safetensors", "head.safetensors", "README.md")
_LEFT_OUT = shutil.ignore_patterns("__pycache__", "conf", "templates")


def build(task_name: str, bundles: Sequence[Path], output: Path, base: str | None = None) -> dict[str, Any]:
    """Write the context of one task; the same bundle and packages give the same bytes.

    Args:
        task_name: of `TASKS`.
        bundles: of models finetuned on such a task; the outputs of several, such as seeds, are averaged.
        output: a new folder, or an earlier context, which is replaced.
        base: image to start from; None takes the slim one of this Python.

    Returns:
        What is written in `challenge.json`: task, versions, digests of the bundles.

    Raises:
        BundleError: no bundle, one without a head, or several that do not go together.
        TaskError: a model that does not fit the task.
        ConfigError: the output is something else already.
    """
    task = TASKS[task_name]
    models = load_models(bundles)
    spec = models[0].spec
    may_lack = all(model.spec.missing == "zeros" for model in models)
    check_model(task, spec.kind, spec.sequences, spec.classes, bundles[0], may_lack)
    output = output.resolve()
    if output.exists() and not _is_context(output):
        raise ConfigError("is there and no build context", where=output, way_out="Choose a new folder")
    versions = recipes.installed_versions()
    base = base or recipes.base_image()
    digests = [bundle_digest(bundle) for bundle in bundles]
    facts = {"task": task.name, "fomo_ssl": fomo_ssl.__version__, "bundle_digests": digests, "base": base}
    with atomic_folder(output) as folder:
        for number, bundle in enumerate(bundles):
            inside = folder / "bundles" / f"{number:02d}"
            inside.mkdir(parents=True)
            for name in _WEIGHTS:
                if (bundle / name).is_file():
                    shutil.copyfile(bundle / name, inside / name)
        shutil.copytree(Path(fomo_ssl.__file__).parent, folder / "fomo_ssl", ignore=_LEFT_OUT)
        write_text(folder / "predict.py", recipes.predict_script(task))
        (folder / "predict.py").chmod(0o755)
        pinned = [f"{name}=={versions[name]}" for name in recipes.REQUIREMENTS]
        write_text(folder / "requirements.txt", "\n".join(pinned) + "\n")
        write_text(folder / "constraints.txt", "".join(f"{name}=={found}\n" for name, found in versions.items()))
        write_text(folder / "Apptainer.def", recipes.apptainer(task, base))
        write_text(folder / "Dockerfile", recipes.dockerfile(task, base))
        write_text(folder / "README.md", recipes.readme(task))
        write_json(folder / FACTS, facts)
    return facts


def _is_context(folder: Path) -> bool:
    try:
        found = json.loads((folder / FACTS).read_text())
    except (OSError, ValueError):
        return False
    return isinstance(found, dict) and found.keys() >= {"task", "fomo_ssl", "bundle_digests"}
