"""The files that pages are made of, and what every page asks."""

from __future__ import annotations

from functools import cache
from importlib import resources

import jinja2

QUESTION = "Does the model notice what happens inside itself, and can it say what?"


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
    )
    return environment.from_string(text(name))
