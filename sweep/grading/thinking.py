"""What of a reply is its answer: not what it thought aloud before."""

from __future__ import annotations

import re

from sweep.engine import Reply, Stop

_OPEN = re.compile(r"<think(?:ing)?>")
_CLOSED = re.compile(r"<think(?:ing)?>.*?</think(?:ing)?>", re.DOTALL)
_CLOSE = re.compile(r"</think(?:ing)?>")  # alone where the template had opened the block
_OPENED_BY_TEMPLATE = re.compile(r"<think(?:ing)?>\s*$")


def answer_of(reply: Reply) -> tuple[str | None, str | None]:
    """(answer, None), or (None, why there is none to judge)."""
    if reply.stop == "none":
        return None, "no text was asked for"
    if "think" not in reply.text and "think" not in reply.rendered:
        return _said(reply.text.strip(), reply.stop)
    text = _CLOSE.split(_CLOSED.sub("", reply.text))[-1]
    opened = _OPEN.search(text)
    inside = opened or (text == reply.text and _OPENED_BY_TEMPLATE.search(reply.rendered))
    if inside and reply.stop == "length":
        return None, "cut inside its thinking"
    return _said(("" if inside and not opened else text[: opened.start()] if opened else text).strip(), reply.stop)


def _said(answer: str, stop: Stop) -> tuple[str | None, str | None]:
    if not answer and stop == "length":
        return None, "cut before an answer"
    return answer, None
