"""A build context: a folder from which Apptainer or Docker make the container of one task, weights inside."""

import shutil
from pathlib import Path

import fomo_ssl
from fomo_ssl.bundle import bundle_digest, load_config
from fomo_ssl.challenge import recipes
from fomo_ssl.challenge.contract import TASKS, check_model
from fomo_ssl.core.errors import BundleError, ConfigError
from fomo_ssl.core.files import atomic_folder, write_json, write_text

FACTS = "challenge.json"
_WEIGHTS = ("config.json", "task.json", "encoder.safetensors", "head.safetensors", "README.md")
_LEFT_OUT = shutil.ignore_patterns("__pycache__", "conf", "templates")


def build(task_name: str, bundle: Path, output: Path, base: str | None = None) -> dict[str, str]:
    """Write the context of one task; the same bundle and packages give the same bytes.

    Args:
        task_name: of `TASKS`.
        bundle: of a model finetuned on such a task.
        output: a new folder, or an earlier context, which is replaced.
        base: image to start from; None takes the slim one of this Python.

    Returns:
        What is written in `challenge.json`: task, versions, digest of the bundle.

    Raises:
        BundleError: no bundle, or one without a head.
        TaskError: a model that does not fit the task.
        ConfigError: the output is something else already.
    """
    task, config = TASKS[task_name], load_config(bundle)
    if config.task is None:
        raise BundleError("this bundle has no task head", where=bundle, way_out="Give the bundle of a finetuned unit")
    check_model(task, config.task["kind"], tuple(config.task["sequences"]), int(config.task["classes"]), bundle)
    if output.exists() and not (output / FACTS).is_file():
        raise ConfigError("is there and no build context", where=output, way_out="Choose a new folder")
    versions = recipes.installed_versions()
    base = base or recipes.base_image()
    facts = {"task": task.name, "fomo_ssl": fomo_ssl.__version__, "bundle_digest": bundle_digest(bundle), "base": base}
    with atomic_folder(output) as folder:
        (folder / "bundle").mkdir()
        for name in _WEIGHTS:
            if (bundle / name).is_file():
                shutil.copyfile(bundle / name, folder / "bundle" / name)
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
