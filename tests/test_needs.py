"""What a protocol's questions have to have is asked when a spec is read, and an experiment that failed is named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from analysis.gather import gather
from analysis.limits import silent
from analysis.report import write_report
from sweep import power, protocols, questions, study
from sweep.__main__ import main
from sweep.protocols.needs import Needs
from sweep.questions import CONTROL
from sweep.spec import SpecError
from sweep.study import Study

FITTING = {
    "knowing": ("facts", "arithmetic", "world"),
    "making_up": ("invented", "world"),
    "familiarity": ("unfamiliar",),
    "influence": ("cues",),
    "weights": ("choices",),
    "hints": ("hints",),
    "steps": ("reasoning",),
    "bridge": ("bridges",),
}


def read(protocol: str, asked: str, folder: Path = Path(), more: str = "") -> Study:
    text = f'name = "s"\nmodels = ["fake:knower"]\n[[experiments]]\nprotocol = "{protocol}"\nquestions = "{asked}"\n'
    return study.parse(text + more, folder=folder)


def refused(protocol: str, asked: str, folder: Path = Path(), more: str = "") -> str:
    with pytest.raises(SpecError) as error:
        read(protocol, asked, folder, more)
    [problem] = error.value.problems
    return problem


def own(path: Path, **more: object) -> None:
    path.write_text("\n".join(json.dumps({"name": f"q{n}", "text": f"What is {n} + 1?", **more}) for n in range(3)))


@pytest.mark.parametrize(("protocol", "name"), [(each, name) for each, names in FITTING.items() for name in names])
def test_a_shipped_set_has_what_its_protocol_needs(protocol: str, name: str) -> None:
    needs, asked = protocols.needs(protocol), questions.load(name)
    assert needs.lacking(asked) is None
    assert needs.unwise(asked) is None
    assert not [each for each in read(protocol, name).warnings if "kind" in each]


@pytest.mark.parametrize(
    ("protocol", "name", "lacking", "able"),
    [
        ("bridge", "facts", "the parts bridge, other_bridge, answer, other_answer in 'capital-france'", "bridges"),
        ("steps", "facts", "options in 'capital-france' (719 of 719", "cues, hints, reasoning"),
        ("influence", "arithmetic", "the parts cue1, cue2, cue3, cue4, cue5 and 5 more, options in", "cues"),
        ("weights", "facts", "the parts properties, a1, a2, a3, a4 and 20 more in", "choices"),
        ("hints", "cues", "the parts hint, target in", "hints"),
        ("familiarity", "facts", "the kind 'plain', which the others are held against", "unfamiliar"),
        ("knowing", "invented", "answers in 'capital-australia-invented' (240 of 480", "arithmetic, facts, cues, brid"),
    ],
)
def test_a_set_that_lacks_it_is_refused_with_those_that_have_it(
    protocol: str, name: str, lacking: str, able: str
) -> None:
    problem = refused(protocol, name)
    assert problem.startswith(f"experiments[0].questions: {protocol} needs what {name!r} has not: {lacking}")
    assert f"; sets that have it: {able}" in problem


def test_sets_of_ones_own_are_held_to_it_too(tmp_path: Path) -> None:
    own(tmp_path / "bare.jsonl")
    assert "answers in 'q0' (3 of 3" in refused("knowing", "bare.jsonl", tmp_path)
    own(tmp_path / "wrong.jsonl", options=["1", "2"], parts={"hint": "It is C.", "target": "C"})
    assert "a letter of its options as the part target" in refused("hints", "wrong.jsonl", tmp_path)
    own(tmp_path / "chosen.jsonl", options=["1", "2"], answers=["1"])
    assert read("steps", "chosen.jsonl", tmp_path).blocks
    given = refused("steps", "chosen.jsonl", tmp_path, 'prompts = ["given"]')
    assert "the part steps in 'q0'" in given  # what that wording begins the answer with
    assert given.endswith("sets that have it: reasoning")


def test_a_protocol_of_ones_own_needs_nothing() -> None:
    assert protocols.needs("mine:protocol") == Needs()


def test_what_is_less_telling_is_a_warning() -> None:
    [real] = [each for each in read("making_up", "facts").warnings if "kind" in each]
    assert "no kind of them is 'invented' or 'absent'" in real
    [alike] = [each for each in read("familiarity", "unfamiliar:plain").warnings if "kind" in each]
    assert "add questions of another kind" in alike


# -- an experiment that only failed -----------------------------------------------------------------------------------

STIMULI = """
[knowing]
turns = [{ role = "user", text = "{question}" }]
[knowing.asks]
"self.true" = "Is this {nonsense} right?"
"""
SPEC = """
name = "silent"
models = ["fake:knower"]
stimuli = "stimuli.toml"
[[experiments]]
protocol = "knowing"
questions = "facts"
limit = 4
[[experiments]]
protocol = "familiarity"
questions = "unfamiliar"
limit = 16
"""


def test_what_only_failed_has_a_line_in_the_report(tmp_path: Path) -> None:
    (tmp_path / "stimuli.toml").write_text(STIMULI)
    (tmp_path / "s.toml").write_text(SPEC)
    assert main(["run", str(tmp_path / "s.toml"), "--run", str(tmp_path / "r"), "--in-process", "--json"]) == 0
    [line] = silent(gather(tmp_path / "r"))
    assert line.startswith("fake-knower, knowing: none of 4 trials ended ok")
    assert line.endswith(f"sweep show {tmp_path / 'r'} --protocol knowing --status error")
    found = write_report(tmp_path / "r", files=False)
    assert line in found.remarks
    assert line.partition(":")[0] in found.page.read_text()


# -- what the plan promises -------------------------------------------------------------------------------------------


def test_controls_are_nothing_that_two_models_differ_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And each observer is to be beaten: kind, words, length (and its reader), all who are asked, and the models."""
    asked = questions.load("invented")
    own_units = {each.unit for each in asked if not each.kind.startswith(CONTROL)}
    assert len(own_units) < len({each.unit for each in asked})
    shown = dict[tuple[int, bool], tuple[int, int]]()
    for models, states in ((1, False), (1, True), (3, True)):
        names = ", ".join(f'"fake:{each}"' for each in ("knower", "difficulty", "decorator")[:models])
        (tmp_path / "s.toml").write_text(
            f'name = "s"\nmodels = [{names}]\n[[experiments]]\nprotocol = "making_up"\nquestions = "invented"\n'
            f"states = {str(states).lower()}\n"
        )
        assert main(["plan", str(tmp_path / "s.toml"), "--run", str(tmp_path / "r"), "--json"]) == 0
        found = json.loads(capsys.readouterr().out)["experiments"][0]["advantage"]
        shown[models, states] = found["questions"], found["observers"]
        assert found == {"questions": len(own_units), **vars(power.advantage(len(own_units), found["observers"]))}
    assert shown == {(1, False): (200, 7), (1, True): (200, 8), (3, True): (200, 9)}
    assert main(["plan", str(tmp_path / "s.toml"), "--run", str(tmp_path / "r")]) == 0
    told = capsys.readouterr().out
    assert "5 points over each of 9 observers show in" in told
    assert "any two scores correlate by 0.5" in told
