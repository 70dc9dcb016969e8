"""Two things described by five numbers each, twelve pairs a scenario (sweep/data/scenarios.toml): what weighs how much?

Parts: `properties`, one a line as "name|low|high|unit", and for the pairs i from 1 to 12 `a<i>` and `b<i>`, the values
of the five properties of either. Nothing is right or wrong. In the control, kind "control-told", the text says what to
go by (part `told`): its question names one property as the only one that matters.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from importlib.resources import files

from sweep.questions.chance import integer, pick
from sweep.questions.facts import slug
from sweep.trial import Question

PAIRS, CONTROLS = 12, 20
_PROPERTY = re.compile(r"(?P<name>.+?) (?P<low>\d+)-(?P<high>\d+)(?: (?P<unit>.+))?")


def questions() -> tuple[Question, ...]:
    data = tomllib.loads(files("sweep.data").joinpath("scenarios.toml").read_text("utf-8"))
    scenarios: list[str] = data["scenarios"]
    return (*map(_scenario, scenarios), *map(_told, scenarios[:CONTROLS]))


def _scenario(line: str) -> Question:
    thing, _, rest = line.partition(" = ")
    properties = [found for text in rest.split("; ") if (found := _PROPERTY.fullmatch(text))]
    listed = ("|".join((p["name"], p["low"], p["high"], p["unit"] or "")) for p in properties)
    return Question(
        name=slug(thing),
        kind="plain",
        text=f"Which {thing} would you pick?",
        parts=(("properties", "\n".join(listed)), *_pairs(thing, properties)),
    )


def _pairs(thing: str, properties: list[re.Match[str]]) -> Iterator[tuple[str, str]]:
    for place in range(1, PAIRS + 1):
        for side in "ab":
            values = (integer(int(p["low"]), int(p["high"]), thing, place, side, p["name"]) for p in properties)
            yield f"{side}{place}", " ".join(map(str, values))


def _told(line: str) -> Question:
    """The same, with one property named as all that counts."""
    plain = _scenario(line)
    name, *_ = pick(plain.part("properties").splitlines(), "told", plain.name).split("|")
    text = f"Go by the {name} alone, the higher the better. {plain.text}"
    return Question(
        name=f"{plain.name}-told",
        kind="control-told",
        text=text,
        cluster=plain.name,
        parts=(*plain.parts, ("told", name)),
    )
