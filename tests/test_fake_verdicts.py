"""Each fake subject has the verdict that it must have on every test of self-knowledge, at sizes that decide.

The report is held against observers as in a study. `difficulty` differs from a stranger by noise alone: that it knows
no more is said where some 700 contested questions rule five points out. So thousands of questions are made for it, and
for the knower beside it, as sets of one's own; all others are told by fewer.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import json
import tomllib
from collections.abc import Callable, Generator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import pytest

from analysis.load import open_run
from analysis.selfknowledge.exam import Examined, examine
from analysis.selfknowledge.measured import TESTS
from analysis.selfknowledge.verdict import Kind
from sweep import protocols, study
from sweep.fakes.knowers import KNOWERS
from sweep.protocols import knowing, steps
from sweep.trial import Outcome, Question
from tests import many_questions as many
from tests.interviews import ran
from tests.knowledge import write

KNOWS: Kind = "knows"
NONE: Kind = "no privileged access"
NOT: Kind = "does not"
MUTE: Kind = "instrument uninformative"

# Who knows only what is plain from outside beats chance with that wherever something is plain, and is no better than a
# stranger; a reader of its own text too. Whose reasons are decoration says as little of what is known to be reportable,
# so that silence is no evidence of ignorance. MUTE besides, since what these go by is no sign of what is asked:
#   steps, text_reader     that steps were written is no sign of having needed them, of whatever problem
#   bridge, difficulty     how hard a question is tells neither who was put into its place, nor who stands in a text
# A text_reader can be asked about a bridge, since the text names one: of another that was put there it knows nothing.
MUST: dict[str, dict[str, Kind]] = {
    #               knower            difficulty          text_reader          decorator
    "knowing":     {"knower": KNOWS, "difficulty": NONE, "text_reader": NONE, "decorator": MUTE},
    "making_up":   {"knower": KNOWS, "difficulty": NONE, "text_reader": NONE, "decorator": MUTE},
    "familiarity": {"knower": KNOWS, "difficulty": NONE, "text_reader": NONE, "decorator": MUTE},
    "influence":   {"knower": KNOWS, "difficulty": NONE, "text_reader": NONE, "decorator": MUTE},
    "weights":     {"knower": KNOWS, "difficulty": NONE, "text_reader": NONE, "decorator": MUTE},
    "hints":       {"knower": KNOWS, "difficulty": NONE, "text_reader": NONE, "decorator": MUTE},
    "steps":       {"knower": KNOWS, "difficulty": NONE, "text_reader": MUTE, "decorator": MUTE},
    "bridge":      {"knower": KNOWS, "difficulty": MUTE, "text_reader": NOT, "decorator": MUTE},
}  # fmt: skip
ASKED = {  # of a wording, where it asks for more than a report and observers of it, which costs time
    "knowing": ("self.true", "stranger.true", "others.scale"),
    "making_up": ("self.before", "stranger.before", "others.before"),
    "influence": ("self.which", "stranger.which", "others.which"),
    "weights": ("self.weight", "stranger.weight", "others.weight"),
    "hints": ("hinted", "thinking", "self.used", "stranger.used"),
}


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A set by name, or how one is made of so many questions, beside its controls. `rest`: how many of them all but
    TOGETHER are asked, in a run of their own; None: everybody is asked all, in one run. `more`: of the experiment."""

    questions: str | Callable[[int], list[Question]]
    size: int
    rest: int | None = None
    more: str = ""


SETS = {
    "knowing": Asked(questions=many.sums, size=2100, rest=800),
    "making_up": Asked(questions=many.sums, size=2100, rest=800),
    "familiarity": Asked(questions="unfamiliar", size=600),
    "influence": Asked(questions="cues", size=250),
    "weights": Asked(questions=many.scenarios, size=240),
    "hints": Asked(questions=many.hinted, size=2100, rest=600),
    "steps": Asked(questions=many.problems, size=2400, rest=300),
    "bridge": Asked(questions="bridges", size=130, more='arms = ["none", "concept"]\nlayers = [4]'),
}
TOGETHER = ("knower", "difficulty")
CURVES = steps.curves
Told = dict[str, list[Examined]]  # by subject; the knower stands in both runs where there are two


@pytest.fixture(scope="module")
def wordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped ones with nothing but ASKED."""
    shipped = tomllib.loads(files("sweep.data").joinpath("interviews.toml").read_text("utf-8"))
    path, lines = tmp_path_factory.mktemp("wordings") / "few.toml", list[str]()
    for protocol, names in ASKED.items():
        turn, asks = shipped[protocol]["turns"][0]["text"], shipped[protocol]["asks"]
        lines += [f"[{protocol}]", f'turns = [{{ role = "user", text = {json.dumps(turn)} }}]']
        lines += [f"max_tokens = {shipped[protocol]['max_tokens']}", f"[{protocol}.asks]"]
        lines += [f'"{name}" = {json.dumps(asks[name])}' for name in names]
    path.write_text("\n".join(lines))
    return path


@pytest.fixture(scope="module", params=sorted(SETS))
def told(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, wordings: Path) -> Told:
    protocol, here = request.param, tmp_path_factory.mktemp("fakes")
    asked = SETS[protocol]
    name = asked.questions
    if not isinstance(name, str):
        name = str(many.write(here / "questions.jsonl", name(asked.size)))
    with pytest.MonkeyPatch.context() as patch, _little_garbage():
        patch.setattr(knowing, "SAMPLES", 1)  # what they show is no observer's

        def outcomes(subject: str) -> list[Outcome]:
            few = asked.rest is not None and subject not in TOGETHER
            patch.setattr(steps, "curves", CURVES if few else _no_curves)
            return _ran(protocol, subject, name, wordings, f"limit = {asked.rest if few else asked.size}\n{asked.more}")

        every = {subject: outcomes(subject) for subject in KNOWERS}
    groups = [KNOWERS] if asked.rest is None else [TOGETHER, [each for each in KNOWERS if each != "difficulty"]]
    found: Told = {subject: [] for subject in KNOWERS}
    for number, group in enumerate(groups):
        together = list(itertools.chain.from_iterable(every[subject] for subject in group))
        run = write(here / f"run-{number}", together, protocols.get(protocol))
        for each in examine(open_run(run), draws=200):
            found[each.model].append(each)
    return found


@contextlib.contextmanager
def _little_garbage() -> Generator[None]:
    """Hardly anything that is made here goes round in circles, and to look for it takes a quarter of the time."""
    before = gc.get_threshold()
    gc.set_threshold(200_000, 20, 20)
    yield
    gc.set_threshold(*before)


async def _no_curves(*_: object) -> None:
    """Whether an answer hangs on its steps is told of few."""


def _ran(protocol: str, subject: str, questions: str, wordings: Path, more: str) -> list[Outcome]:
    own = f"?questions={questions}" if "/" in questions else ""
    spec = (
        f'name = "s"\nstimuli = "{wordings}"\nmodels = [{{ name = "{subject}", path = "fake:{subject}{own}" }}]\n'
        f'[[experiments]]\nprotocol = "{protocol}"\nquestions = "{questions}"\n{more}\n'
    )
    blocks = study.parse(spec).blocks
    shards = (block.trials(number) for block in blocks for number in range(block.shards))
    return [outcome for trials in shards for outcome in ran(list(trials))]


def test_every_subject_has_its_verdict(told: Told) -> None:
    for subject, verdicts in told.items():
        assert verdicts
        for each in verdicts:
            assert each.verdict.kind == MUST[each.test.protocol][subject], (subject, each.verdict.reason)


def test_who_is_said_to_have_no_privileged_access_beats_chance(told: Told) -> None:
    for each in itertools.chain.from_iterable(told.values()):
        if each.verdict.kind == NONE:
            assert each.verdict.reason.startswith("it beats chance, and ")


def test_only_a_decorators_steps_are_said_to_be_decoration(told: Told) -> None:
    for each in itertools.chain.from_iterable(told.values()):
        decoration = each.test.protocol == "steps" and each.model == "decorator"
        assert ("its steps are decoration" in each.verdict.reason) is decoration


def test_every_subject_has_a_verdict_on_every_test() -> None:
    assert set(MUST) == set(SETS) == {test.protocol for test in TESTS}
    assert all(set(verdicts) == set(KNOWERS) for verdicts in MUST.values())
