"""What every page does with its text."""

from __future__ import annotations

import jinja2
import pytest
from markupsafe import Markup

from analysis import page

TEXTS = {
    "Run `sweep read RUN`.": "Run <code>sweep read RUN</code>.",
    "`<b>` & `x`": "<code>&lt;b&gt;</code> &amp; <code>x</code>",
    "one ` alone <i>": "one ` alone &lt;i&gt;",
    "a ` at one end\nand ` at another": "a ` at one end\nand ` at another",
}


@pytest.mark.parametrize("text", TEXTS)
def test_what_is_between_backticks_is_code_and_nothing_escapes(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert _drawn(text, monkeypatch) == TEXTS[text]


def test_a_script_keeps_its_backticks(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _drawn(Markup("let a = `<b>`;"), monkeypatch) == "let a = `<b>`;"


def _drawn(value: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(page, "text", lambda _: "{{ value }}")
    made: jinja2.Template = page.template.__wrapped__("any")
    return made.render(value=value)
