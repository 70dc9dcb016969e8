"""Facts by fame: common, known and rare (sweep/data/facts.toml), each its own cluster."""

from __future__ import annotations

import re
import tomllib
import unicodedata
from collections.abc import Iterator
from functools import cache
from importlib.resources import files

from pydantic import BaseModel, ConfigDict

from sweep.questions.controls import controls
from sweep.trial import Question

FAME = ("common", "known", "rare")
CONTROLS = 60


class Family(BaseModel):
    """Facts of one kind: subjects, and what is so of each."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    question: str
    entity: bool = False
    common: tuple[str, ...]
    known: tuple[str, ...]
    rare: tuple[str, ...]

    def facts(self) -> Iterator[tuple[str, str, tuple[str, ...]]]:
        """(fame, subject, right answers)."""
        for fame in FAME:
            entries: tuple[str, ...] = getattr(self, fame)
            for entry in entries:
                subject, _, answers = entry.partition(" = ")
                yield fame, subject, tuple(answer.strip() for answer in answers.split("|"))


@cache
def families() -> tuple[Family, ...]:
    data = tomllib.loads(files("sweep.data").joinpath("facts.toml").read_text("utf-8"))
    return tuple(Family.model_validate(table) for table in data["family"])


def questions() -> tuple[Question, ...]:
    own = (
        Question(
            name=f"{family.name}-{slug(subject)}", kind=fame, text=family.question.format(subject), answers=answers
        )
        for family in families()
        for fame, subject, answers in family.facts()
    )
    return (*own, *controls(CONTROLS, "facts"))


def slug(text: str) -> str:
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().casefold()
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")
