"""Where the configuration lies, and how a command line becomes plain values; the only module that knows Hydra."""

import functools
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fomo_ssl.core.errors import ConfigError, entry
from fomo_ssl.core.values import near

if TYPE_CHECKING:
    from omegaconf import DictConfig

Main = Callable[[dict[str, Any]], None]

# Groups whose values are arguments of something that checks them itself.
_CHECKED_LATER = ("encoder", "objective", "augment", "trainer", "logger")

# Hydra must neither write folders of its own for a single run nor touch the log handlers of the process.
_QUIET = (
    "hydra.run.dir=.",
    "hydra.output_subdir=null",
    "hydra.job.chdir=false",
    "hydra/job_logging=none",
    "hydra/hydra_logging=none",
)


def conf_dir() -> Path:
    """The folder of YAML files: inside the installed package, else beside it in a clone.

    Raises:
        ConfigError: neither exists.
    """
    package = Path(__file__).resolve().parent
    for folder in (package / "conf", package.parent / "conf"):
        if folder.is_dir():
            return folder
    raise ConfigError("no conf folder", where=package, way_out="Install the package again")


def hydra_main(
    config_name: str, after_sweep: Callable[[Path], None] | None = None
) -> Callable[[Main], Callable[..., None]]:
    """Decorator: an entry point that receives the composed configuration as a plain dictionary.

    The wrapped function takes the command line as a list (default `sys.argv[1:]`). With `--multirun` the runs lie in
    one folder, `run=PATH` or `runs/<time>_sweep`, and every run's own folder is in its `config["run"]`.

    Args:
        config_name: name of a YAML file in `conf_dir()`, without suffix.
        after_sweep: called with the folder of a sweep when all its runs ended.

    Raises:
        SystemExit: 2 after one line on standard error, for every mistake in the configuration.
    """

    def decorate(main: Main) -> Callable[..., None]:
        @functools.wraps(main)
        @entry
        def wrapped(arguments: Sequence[str] | None = None) -> None:
            argv = list(sys.argv[1:] if arguments is None else arguments)
            if "--help" in argv or "-h" in argv:
                print(help_text(config_name, sys.modules[main.__module__].__doc__ or ""))
                return
            sweep = _sweep_folder(argv) if {"--multirun", "-m"} & set(argv) else None
            if sweep is not None and "run" not in _root(config_name):
                raise ConfigError(f"{config_name} knows no --multirun", way_out="Run it once for each value")
            _refuse_sections(argv, config_name)
            failures = _run(main, config_name, argv, sweep)
            try:
                if sweep is not None and after_sweep is not None:
                    after_sweep(sweep)
            finally:
                if failures:
                    raise failures[0]

        return wrapped

    return decorate


def compose(config_name: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The configuration that a command line gives, without running anything.

    Raises:
        ConfigError: a misspelt key or option, or a mandatory value that is missing.
    """
    import hydra

    try:
        with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
            values = _plain(hydra.compose(config_name, list(overrides)))
    except Exception as error:
        raise _explain(error, config_name, overrides) from error
    _refuse_unknown(values, _known(config_name))
    return values


def help_text(config_name: str, description: str) -> str:
    """What `--help` prints: the purpose, the groups with their options, and every key with its default and comment.

    Of a group the values of the option that it has by default.
    """
    root = _root(config_name)
    chosen = {
        str(name): str(option)
        for item in root.get("defaults", [])
        if isinstance(item, dict)
        for name, option in item.items()
        if option is not None
    }
    options = "\n".join(f"  {group}={' | '.join(_options(group))}" for group in _groups(config_name))
    parts = [f"{description.strip()}\n\nUsage: python -m fomo_ssl.{config_name} KEY=VALUE ..."]
    parts[0] += " [--multirun]" if "run" in root else ""
    parts += [f"Groups (GROUP=OPTION, one value of it with GROUP.KEY=VALUE):\n{options}"] if options else []
    parts += ["Keys and defaults:", (conf_dir() / f"{config_name}.yaml").read_text().strip()]
    for group, option in chosen.items():
        text = (conf_dir() / group / f"{option}.yaml").read_text().strip()
        key = "KEY" if "@package _global_" in text else f"{group}.KEY"
        parts += [f"{group}={option}, each value as {key}=VALUE:", text]
    return "\n\n".join(parts)


def _run(main: Main, config_name: str, argv: list[str], sweep: Path | None) -> list[Exception]:
    """Let Hydra call `main`, once or for every run of a sweep; returns the errors of the runs."""
    import hydra
    from hydra.core.hydra_config import HydraConfig

    parent, failures = os.getpid(), list[Exception]()
    known = _known(config_name)  # before Hydra begins: it composes one configuration at a time

    def task(config: "DictConfig") -> None:
        try:
            values = _plain(config)
            if sweep is not None:
                values["run"] = HydraConfig.get().runtime.output_dir
            _refuse_unknown(values, known)
            main(values)
        except Exception as error:
            if os.getpid() != parent:
                raise
            # Raised after Hydra is done: it would print a line of its own, and the other runs of a sweep should go on.
            failures.append(_explain(error, config_name, argv))
            if sweep is not None:
                print(f"fomo_ssl: a run of the sweep failed: {failures[-1]}", file=sys.stderr)

    values = [a for a in argv if "=" in a and not a.startswith("-")]
    flags = [a for a in argv if a not in values]  # first, because Hydra's parser takes values in one piece only
    if sweep is not None:
        quoted = str(sweep).replace("'", r"\'")
        values = [f"hydra.sweep.dir='{quoted}'", *(a for a in values if not a.startswith("run="))]
    saved = sys.argv, os.environ.get("HYDRA_FULL_ERROR")
    sys.argv = [config_name, *flags, *_QUIET, *values]
    os.environ["HYDRA_FULL_ERROR"] = "1"  # raise errors here instead of printing them and leaving with code 1
    try:
        hydra.main(config_path=str(conf_dir()), config_name=config_name, version_base="1.3")(task)()
    except Exception as error:
        raise _explain(error, config_name, argv) from error
    finally:
        sys.argv = saved[0]
        if saved[1] is None:
            del os.environ["HYDRA_FULL_ERROR"]
    return failures


def _refuse_sections(argv: Sequence[str], config_name: str) -> None:
    """Stop at `budget=3` where `budget.samples=3` is meant; Hydra would put a number in the place of the section."""
    for key, value in _root(config_name).items():
        if isinstance(value, dict) and any(a.startswith(f"{key}=") for a in argv):
            inner = ", ".join(f"{key}.{name}" for name in value)
            raise ConfigError(f"{key} is a section and takes no value", way_out=f"Give one of {inner}")


def _refuse_unknown(values: dict[str, Any], known: dict[str, bool], prefix: str = "") -> None:
    """Stop at a key that nothing reads: Hydra takes any with `+`, and from a file of one's own.

    Raises:
        ConfigError: with near names.
    """
    for key, value in values.items():
        name = f"{prefix}{key}"
        if name not in known:
            raise ConfigError(f"unknown key {name!r}", way_out=near(name, sorted(known)))
        if isinstance(value, dict) and known[name]:
            _refuse_unknown(value, known, f"{name}.")


def _known(config_name: str) -> dict[str, bool]:
    """Dotted names of all keys, and whether what is in them is known too: data sets have names of the user's."""
    known, groups = {name: value != {} for name, value in _leaves(_defaults(config_name))}, _groups(config_name)
    return known | {name: False for name in _CHECKED_LATER if name in known or name in groups}  # a group may be empty


def _sweep_folder(argv: Sequence[str]) -> Path:
    given = [a.removeprefix("run=") for a in argv if a.startswith("run=")]
    return Path(given[-1] if given else f"runs/{time.strftime('%Y-%m-%d_%H-%M-%S')}_sweep")


def _plain(config: "DictConfig") -> dict[str, Any]:
    """Lists, dictionaries and scalars.

    Raises:
        ConfigError: mandatory values are missing.
    """
    from omegaconf import OmegaConf

    missing = sorted(OmegaConf.missing_keys(config))
    if missing:
        raise ConfigError(f"no value for {', '.join(missing)}", way_out=f"Give {missing[0]}=VALUE")
    values = OmegaConf.to_container(config, resolve=True)
    return {str(key): value for key, value in values.items()} if isinstance(values, dict) else {}


def _explain(error: Exception, config_name: str, overrides: Sequence[str]) -> Exception:
    """Hydra's and OmegaConf's errors as one line with near names; other errors as they are."""
    from hydra.errors import HydraException, MissingConfigException
    from omegaconf.errors import OmegaConfBaseException

    if isinstance(error, ValueError) and str(error).startswith("Config group override"):
        return ConfigError(_no_option(config_name, overrides), way_out="See --help")
    if not isinstance(error, HydraException | OmegaConfBaseException):
        return error
    if isinstance(error, MissingConfigException) and error.missing_cfg_file and error.options is not None:
        group, _, option = error.missing_cfg_file.rpartition("/")
        return ConfigError(f"unknown {group or 'configuration'} {option!r}", way_out=near(option, error.options))
    unknown = re.search(r"Could not (?:override|delete[^']*) '([^'@]+)", str(error))
    if unknown:
        key = unknown[1].removesuffix(".yaml")
        known = [name for name, _ in _leaves(_defaults(config_name, overrides))]
        if key in known:  # Hydra takes a null for a key that is not there
            return ConfigError(f"{key} is null already", way_out=f"Leave ~{key} out")
        return ConfigError(f"unknown key {key!r}", way_out=near(key, known))
    return ConfigError(" ".join(str(error).split()), way_out="See --help")


def _no_option(config_name: str, overrides: Sequence[str]) -> str:
    """Which group was given a number or null, such as `optim=3`; Hydra does not say."""
    given = [word.partition("=") for word in overrides]
    wrong = [
        f"{group}={name}" for group, _, name in given if group in _groups(config_name) and name not in _options(group)
    ]
    return f"{' or '.join(wrong)} is no name of an option"


def _defaults(config_name: str, overrides: Sequence[str] = ()) -> "DictConfig":
    """The configuration with nothing set, but the groups that a command line chooses."""
    import hydra

    groups = _groups(config_name)
    chosen = [word for word in overrides if word.partition("=")[0] in groups and "," not in word]
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return hydra.compose(config_name, chosen)


def _leaves(config: "DictConfig", prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted names of all values and sections, and what is there."""
    from omegaconf import DictConfig, OmegaConf

    for key in config:
        name = f"{prefix}{key!s}"
        value = None if OmegaConf.is_missing(config, key) else config[key]
        yield name, value
        if isinstance(value, DictConfig):
            yield from _leaves(value, f"{name}.")


def _groups(config_name: str) -> list[str]:
    defaults = _root(config_name).get("defaults", [])
    named = [str(key).split()[-1] for item in defaults if isinstance(item, dict) for key in item]
    return [name for name in named if not name.startswith("hydra")]


def _root(config_name: str) -> dict[Any, Any]:
    """A root YAML file as it is, without its groups."""
    from omegaconf import OmegaConf

    loaded = OmegaConf.to_container(OmegaConf.load(conf_dir() / f"{config_name}.yaml"))
    return loaded if isinstance(loaded, dict) else {}


def _options(group: str) -> list[str]:
    return sorted(file.stem for file in (conf_dir() / group).glob("*.yaml"))
