"""A dictionary of builders by name: explicit registration, near names on a miss, no folder scanning.

Names that are not here may be those of plug-ins, which are imported when the first such name is asked for.
"""

import difflib
import fnmatch
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

from fomo_ssl.core.errors import UnknownNameError
from fomo_ssl.core.plugins import load_plugins

T = TypeVar("T")
Builder = Callable[..., T]


class Registry(Generic[T]):
    """Builders of one kind of thing (`kind` is the word for messages: "encoder", "objective")."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._builders: dict[str, Builder[T]] = {}

    def register(self, name: str) -> Callable[[Builder[T]], Builder[T]]:
        """Decorator that files a builder (a class or a function) under a name; a duplicate is an error."""

        def add(builder: Builder[T]) -> Builder[T]:
            if name in self._builders:
                raise ValueError(f"{self.kind} {name!r} is registered twice")
            self._builders[name] = builder
            return builder

        return add

    def create(self, name: str, **kwargs: Any) -> T:
        """Build `name` with keyword arguments; `UnknownNameError` lists near names."""
        return self[name](**kwargs)

    def names(self, pattern: str = "*") -> list[str]:
        """Sorted names that match a shell wildcard."""
        load_plugins()
        return sorted(fnmatch.filter(self._builders, pattern))

    def __getitem__(self, name: str) -> Builder[T]:
        if name not in self:
            near = difflib.get_close_matches(name, self._builders, n=3, cutoff=0.5)
            hint = f"did you mean {', '.join(near)}?" if near else f"known: {', '.join(self.names())}"
            raise UnknownNameError(f"unknown {self.kind} {name!r}", way_out=hint)
        return self._builders[name]

    def __contains__(self, name: object) -> bool:
        if name not in self._builders:
            load_plugins()
        return name in self._builders

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())
