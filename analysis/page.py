"""The files that pages are made of, and what every page asks."""

from __future__ import annotations

import re
from functools import cache
from importlib import resources

import jinja2
from markupsafe import Markup, escape

QUESTION = "Does the model notice what happens inside itself, and can it say what?"

_TYPED = re.compile(r"`([^`\n]+)`")


def text(name: str) -> str:
    """A file of this folder."""
    return (resources.files("analysis") / name).read_text(encoding="utf-8")


@cache
def template(name: str) -> jinja2.Template:
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=_with_code,
    )
    return environment.from_string(text(name))


def _with_code(value: object) -> object:
    """What stands between backticks in a sentence, something to type or a name of ours, is set as code."""
    if not isinstance(value, str) or isinstance(value, Markup) or "`" not in value:
        return value
    return Markup(_TYPED.sub(r"<code>\1</code>", str(escape(value))))
