"""Templates of the reports: everything from data is escaped, and a name that a template misspells raises an error."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

from kwneuro_assets.reports.links import anchor, image_url, local_url, web_url

if TYPE_CHECKING:
    from jinja2 import Environment

_DIGITS = 5  # significant ones
_HASH = 12  # characters of a hash that are shown; its title has all


def render(template: str, **context: Any) -> str:
    """The text of a template of `reports/templates`.

    Characters that UTF-8 cannot encode, such as those of a file name in another encoding, become escape sequences.
    """
    return _environment().get_template(template).render(**context).encode("utf-8", "backslashreplace").decode()


@cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("kwneuro_assets.reports", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        anchor=anchor, image_url=image_url, local_url=local_url, web_url=web_url, shown=shown, brief=brief, words=words
    )
    environment.tests["mapping"] = lambda value: isinstance(value, Mapping)
    return environment


def shown(value: object) -> str:
    """A value of a table or setting as people read it.

    >>> [shown(value) for value in (None, True, 1234567, 0.123456789, "text", ["a", 1])]
    ['n/a', 'yes', '1234567', '0.12346', 'text', 'a, 1']
    """
    if value is None:
        return "n/a"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.{_DIGITS}g}"
    if isinstance(value, (list, tuple)) and not any(isinstance(one, (list, tuple, Mapping)) for one in value):
        return ", ".join(map(shown, value)) or "none"
    return str(value) if isinstance(value, (str, int)) else json.dumps(value, default=str)


def brief(text: str) -> str:
    """The start of a hash; other texts unchanged.

    >>> brief("3-0123456789abcdef0123456789abcdef"), brief("not versioned")
    ('3-0123456789…', 'not versioned')
    """
    is_hash = len(text) > 20 and " " not in text
    return f"{text[:_HASH]}…" if is_hash else text


def words(name: str) -> str:
    """The name of a value, as words.

    >>> words("residual_rms_fraction")
    'residual rms fraction'
    """
    return name.replace("_", " ")
