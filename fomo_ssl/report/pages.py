"""Fill in a page's template; the only place that knows how templates are found and what is escaped."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


def fill(template: str, filters: Mapping[str, Callable[..., Any]], **values: Any) -> str:
    """The text of a page.

    Args:
        template: name of a file in `templates`.
        filters: filters of this page beside `svg`, which leaves a drawing's markup as it is.
        values: what the template asks for; a name that is missing is an error.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    templates = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters |= {"svg": Markup, **filters}
    return templates.get_template(template).render(**values)
