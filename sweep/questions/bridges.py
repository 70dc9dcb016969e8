"""Questions of two hops: whose mentor is who, who lives where, in an order by chance, and another such story beside it.

"counterfactual" is the same text in which only the mentor is the other person (of as many letters), so that nothing but
the bridge differs between the two. Parts: `counterfactual`, `bridge`, `other_bridge`, `answer`, `other_answer`. In the
control, kind "control-stated", the text says whom to go through. Each item is its own cluster.
"""

from __future__ import annotations

import itertools

from sweep.questions.chance import shuffled
from sweep.questions.lists import words
from sweep.trial import Question

ITEMS, CONTROLS = 100, 30

PEOPLE, CITIES, ROLES = (words("bridges", name) for name in ("people", "cities", "roles"))


def questions() -> tuple[Question, ...]:
    own = (_item(f"bridge-{number:03}", "plain") for number in range(ITEMS))
    return (*own, *(_item(f"bridge-control-{number:03}", "control-stated") for number in range(CONTROLS)))


def _item(name: str, kind: str) -> Question:
    bridge, other = _alike(name)
    asked, beside = [each for each in shuffled(PEOPLE, name, "people") if each[0] not in (bridge[0], other[0])][:2]
    city, other_city, third = _apart(shuffled(CITIES, name, "cities"))
    role = shuffled(ROLES, name, "roles")[0]

    def text(through: str) -> str:
        facts = (
            f"{asked}'s {role} is {through}.",
            f"{bridge} lives in {city}.",
            f"{other} lives in {other_city}.",
            f"{beside} lives in {third}.",
        )
        stated = f" Remember that {asked}'s {role}, whom you ask about, is {through}." if kind != "plain" else ""
        told = " ".join(shuffled(facts, name, "facts"))
        return f"{told}{stated} In which city does {asked}'s {role} live? Reply with its name only."

    parts = (
        ("counterfactual", text(other)),
        ("bridge", bridge),
        ("other_bridge", other),
        ("answer", city),
        ("other_answer", other_city),
    )
    return Question(name=name, kind=kind, text=text(bridge), answers=(city,), parts=parts)


def _alike(name: str) -> tuple[str, str]:
    """Two people whose names are as long and begin with different letters."""
    order = shuffled(PEOPLE, name, "bridges")
    return next(
        (one, two) for one, two in itertools.combinations(order, 2) if len(one) == len(two) and one[0] != two[0]
    )


def _apart(cities: tuple[str, ...]) -> list[str]:
    """Three that begin with different letters, so that they differ in their first token."""
    found: list[str] = []
    for city in cities:
        if len(found) < 3 and city[0] not in {each[0] for each in found}:
            found.append(city)
    return found
