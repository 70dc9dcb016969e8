"""Each fake subject has the verdict that it must have, on the shipped questions: beside the others, as in a study."""

from __future__ import annotations

from pathlib import Path

import pytest

from analysis.load import open_run
from analysis.selfknowledge.exam import Examined, examine
from analysis.selfknowledge.verdict import Kind
from sweep import protocols
from tests.knowledge import fakes, write

SUBJECTS = ("knower", "difficulty", "text_reader", "decorator")
SPECS = {
    "influence": 'questions = "cues"',
    "weights": 'questions = "choices"',
    "steps": 'questions = "reasoning"',
    "bridge": 'questions = "bridges"\narms = ["none", "concept"]\nlayers = [4]',
}
NONE, MUTE = "no privileged access", "instrument uninformative"
MUST: dict[str, dict[str, tuple[Kind, ...]]] = {
    # who tells what is plain tells no more than a stranger; who names the same part always cannot be asked
    "influence": {"knower": ("knows",), "difficulty": (NONE,), "text_reader": (NONE,), "decorator": (MUTE,)},
    # 39 scenarios do not tell noise of its own from a stranger's
    "weights": {"knower": ("knows",), "difficulty": (NONE, "undecided"), "text_reader": (NONE,), "decorator": (MUTE,)},
    # to have written steps is no sign of having needed them
    "steps": {"knower": ("knows",), "difficulty": (MUTE,), "text_reader": (MUTE,), "decorator": (MUTE,)},
    # the text names the person that was there before; a reader of it can be asked, and knows nothing of the patch
    "bridge": {"knower": ("knows",), "difficulty": (MUTE,), "text_reader": ("does not",), "decorator": (MUTE,)},
}


@pytest.fixture(scope="module", params=sorted(SPECS))
def known(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Examined]:
    name = request.param
    outcomes = fakes(f'protocol = "{name}"\n{SPECS[name]}\n', *SUBJECTS)
    root: Path = write(tmp_path_factory.mktemp("runs") / name, outcomes, protocols.get(name))
    return {each.model.removeprefix("fake-"): each for each in examine(open_run(root), draws=200)}


def test_every_subject_has_its_verdict(known: dict[str, Examined]) -> None:
    assert set(known) == set(SUBJECTS)
    for subject, each in known.items():
        assert each.verdict.kind in MUST[each.test.protocol][subject], (subject, each.verdict.reason)


def test_only_a_decorators_steps_are_said_to_be_decoration(known: dict[str, Examined]) -> None:
    for subject, each in known.items():
        decoration = each.test.protocol == "steps" and subject == "decorator"
        assert ("its steps are decoration" in each.verdict.reason) is decoration
