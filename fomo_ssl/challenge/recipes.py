"""The text files of a build context: how a container is made, and what is in it."""

import importlib.metadata
import re
import sys

from fomo_ssl.challenge.contract import TIME_LIMIT, ChallengeTask

REQUIREMENTS = ("torch", "numpy", "scipy", "nibabel", "isal", "einops", "jaxtyping", "safetensors", "monai")
"""What predicting needs; everything else of the package's own requirements is for training."""

# Apptainer shows the home folder of whoever runs it: packages there must not come first. Nothing is fetched or cached.
_ENVIRONMENT = {
    "LC_ALL": "C.UTF-8",
    "PYTHONUNBUFFERED": "1",
    "PYTHONNOUSERSITE": "1",
    "PYTHONDONTWRITEBYTECODE": "1",
    "HF_HUB_OFFLINE": "1",
}
_INSTALL = "pip install --no-cache-dir -r /app/requirements.txt -c /app/constraints.txt"
_PARTS = ("requirements.txt", "constraints.txt", "fomo_ssl", "bundles", "predict.py")


def predict_script(task: ChallengeTask) -> str:
    """`/app/predict.py`."""
    return f'''#!/usr/bin/env python3
"""FOMO25 task {task.number}, {task.name}: {task.writes}.

    {task.command}
"""

from pathlib import Path

from fomo_ssl.challenge.container import main

if __name__ == "__main__":
    main("{task.name}", Path(__file__).resolve().parent / "bundles")
'''


def apptainer(task: ChallengeTask, base: str) -> str:
    """`Apptainer.def`."""
    files = "\n".join(f"    {name} /app/{name}" for name in _PARTS)
    environment = "\n".join(f"    export {name}={value}" for name, value in _ENVIRONMENT.items())
    return f"""Bootstrap: docker
From: {base}

%labels
    Description FOMO25 task {task.number}, {task.name}

%files
{files}

%environment
{environment}

%post
    mkdir -p /input /output /app
    {_INSTALL}
    python -m compileall -q /app/fomo_ssl
    chmod -R a+rX /app

%test
    test -d /input && test -d /output && test -f /app/predict.py
    PYTHONNOUSERSITE=1 python /app/predict.py --help

%runscript
    exec python /app/predict.py "$@"

%help
    {task.command}
"""


def dockerfile(task: ChallengeTask, base: str) -> str:
    """`Dockerfile`; packages come before the model, so that another model does not install them again."""
    environment = " ".join(f"{name}={value}" for name, value in _ENVIRONMENT.items())
    copies = "\n".join(f"COPY {name} /app/{name}" for name in _PARTS[2:])
    return f"""# FOMO25 task {task.number}, {task.name}
FROM {base}
ENV {environment}
COPY requirements.txt constraints.txt /app/
RUN mkdir -p /input /output && {_INSTALL}
{copies}
RUN python -m compileall -q /app/fomo_ssl && python /app/predict.py --help
ENTRYPOINT ["python", "/app/predict.py"]
"""


def readme(task: ChallengeTask) -> str:
    """`README.md` of the context."""
    name = f"fomo25_{task.name}"
    return f"""# FOMO25 task {task.number}, {task.name}

Writes {task.writes}. The command inside: `{task.command}`

    python -m fomo_ssl.challenge check . --cases DATA               # before it is built: this machine's packages, CPU
    apptainer build --fakeroot {name}.sif Apptainer.def             # in this folder
    docker build -t {name} . && docker run --rm --network none {name} --help

Then the organisers' own validator (github.com/fomo25/container-validator):

    python main.py --task task{task.number} --container {name}.sif --data-dir DATA --output-dir OUT

`bundles/` holds the weights, `fomo_ssl/` the code, `constraints.txt` the versions it was made with. Nothing is loaded
from a network when it runs. The limit is {TIME_LIMIT:g} s a case.
"""


def base_image() -> str:
    """A small image with the Python that the versions were tried with; torch brings CUDA itself."""
    return f"python:{sys.version_info.major}.{sys.version_info.minor}-slim"


def installed_versions() -> dict[str, str]:
    """Version by name of every package that is installed here, without local parts such as `+cpu`."""
    found = {}
    for distribution in importlib.metadata.distributions():
        name = distribution.metadata["Name"]
        if name:
            found[re.sub(r"[-_.]+", "-", name).lower()] = distribution.version.partition("+")[0]
    found.pop("fomo-ssl", None)
    return dict(sorted(found.items()))
