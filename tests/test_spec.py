"""A spec is either a valid plan or one clear error that names every problem; never a traceback."""

from __future__ import annotations

import json
import string
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sweep import plan, study
from sweep.block import Block
from sweep.spec import SpecError, schema
from sweep.store import Store
from sweep.trial import Contrast, StrengthRule, VectorFile
from sweep.worker import group_of

SPEC: dict[str, Any] = {
    "name": "study",
    "models": ["fake:oracle"],
    "concepts": ["ocean", "bread", "violin"],
    "baseline": ["desk", "sand"],
    "experiments": [
        {"protocol": "injected_thought", "arms": ["none", "concept"], "layers": [2, 5], "strengths": [1, 2]}
    ],
}


def toml(value: Any) -> str:
    """TOML of a JSON-like value: tables inline, which is all a test needs."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(k)} = {toml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    return json.dumps(value)


def document(spec: dict[str, Any]) -> str:
    return "\n".join(f"{json.dumps(key)} = {toml(value)}" for key, value in spec.items())


def parse(
    changes: dict[str, Any] | None = None, experiment: dict[str, Any] | None = None, folder: Path = Path()
) -> study.Study:
    spec = SPEC | (changes or {})
    if experiment:
        spec = spec | {"experiments": [SPEC["experiments"][0] | experiment]}
    return study.parse(document(spec), folder=folder)


def problems(changes: dict[str, Any] | None = None, experiment: dict[str, Any] | None = None) -> str:
    with pytest.raises(SpecError) as caught:
        parse(changes, experiment)
    assert "Traceback" not in str(caught.value)
    assert "sweep plan" in str(caught.value)
    return "\n".join(caught.value.problems)


def test_a_good_spec_becomes_blocks() -> None:
    injected, controls = parse().blocks
    assert injected.size == 3 * 3 * 2 * 2  # wordings, concepts, layers, strengths
    assert controls.size == 3 * 3
    assert injected.strengths == (1.0, 2.0)
    assert parse(experiment={"strengths": [1.0, 2.0]}).blocks == parse().blocks


def test_every_problem_is_reported_at_once() -> None:
    wrong = {"name": "a b", "sampling": {"temperatur": 1, "top_p": 3}, "surprise": 1}
    found = problems(wrong, {"protocol": 3, "arms": ["concpt"], "repeats": 0, "layers": [0.5]})
    assert "sampling.temperatur: unknown key; did you mean 'temperature'?" in found
    for path in (
        "name:",
        "sampling.top_p:",
        "surprise:",
        "[0].protocol:",
        "[0].arms[0]:",
        "[0].repeats:",
        "[0].layers[0]:",
    ):
        assert path in found


@pytest.mark.parametrize(
    ("changes", "experiment", "message"),
    [
        ({"concepts": []}, None, "concepts: the list is empty"),
        ({"concepts": ["ocean", "Ocean"]}, None, "stands twice"),
        ({"concepts": ["ocean", "a\nb"]}, None, "is not a word"),
        ({"concepts": "lindsey2025:concept"}, None, "Did you mean 'lindsey2025:concepts'?"),
        ({"models": ["./nowhere"]}, None, "models[0].path: no model folder at './nowhere'"),
        ({"models": []}, None, "models:"),
        ({"models": [{"name": "x", "path": "fake:oracle", "engine": "vllm"}]}, None, "models[0].engine: 'fake:oracle'"),
        ({"models": [{"name": "x", "path": "pocket", "engine": "vlm"}]}, None, "models[0].engine: input should be"),
        ({"models": [{"name": "x", "path": "pocket", "engin": "vllm"}]}, None, "did you mean 'engine'?"),
        ({"stimuli": "nowhere.toml"}, None, "stimuli:"),
        ({"template": {"chat": "nowhere.jinja"}}, None, "template.chat:"),
        ({"directions": {"loud": {}}}, None, "directions.loud: needs positive and negative prompts"),
        ({"directions": {"loud": {"file": "no.safetensors"}}}, None, "directions.loud.file: no such file"),
        (None, {"layers": [2, 8]}, "layers: 8 is out of range; model 'fake-oracle' has layers 0 to 7"),
        (None, {"layers": []}, "layers: the list is empty"),
        (None, {"layers": {"fractions": [1.0]}}, "layers.fractions[0]:"),
        (None, {"strengths": [1, 1.0]}, "a strength stands twice"),
        (None, {"strengths": [float("inf")]}, ""),
        (None, {"prompts": ["plian"]}, "did you mean 'plain'?"),
        (None, {"protocol": "injected_thougt"}, "injected_thought"),
        (None, {"protocol": "no_such_module:thing"}, "no_such_module"),
        (None, {"declared": {"layer": 3, "strength": 1}}, "declared: layer 3, strength 1 not in the grid"),
        ({"concepts": ["ocean"]}, {"arms": ["wrong_concept"]}, "wrong_concept needs at least two concepts"),
    ],
)
def test_a_problem_names_its_place(changes: Any, experiment: Any, message: str) -> None:
    assert message in problems(changes, experiment)


def test_a_file_that_is_not_there_or_not_toml(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="sweep init"):
        study.read(tmp_path / "study.toml")
    (tmp_path / "study.toml").write_text("name = ")
    with pytest.raises(SpecError, match="not valid TOML"):
        study.read(tmp_path / "study.toml")
    (tmp_path / "study.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(SpecError, match="not UTF-8"):
        study.read(tmp_path / "study.toml")


def test_a_concept_in_the_baseline_is_warned_of() -> None:
    assert any("ocean" in warning for warning in parse({"baseline": ["Ocean", "sand"]}).warnings)


def test_few_concepts_and_missing_controls_are_warned_of() -> None:
    warnings = "\n".join(parse(experiment={"arms": ["concept"]}).warnings)
    assert "nothing to compare" in warnings
    assert "25 or more" in warnings


def test_depth_fractions_are_resolved_once() -> None:
    assert parse(experiment={"layers": {"fractions": [0.5, 0.6, 0.99]}}).blocks[0].layers == (4, 7)
    assert parse(experiment={"layers": "all"}).blocks[0].layers == tuple(range(8))


def test_a_strength_may_be_a_rule() -> None:
    rule = {"rule": "norm_of_concept", "at": 2}
    assert parse(experiment={"strengths": [rule, 1]}).blocks[0].strengths == (StrengthRule(at=2.0), 1.0)


def test_directions_of_ones_own_are_items(tmp_path: Path) -> None:
    (tmp_path / "mine.safetensors").write_bytes(b"x")
    own = {"loud": {"positive": ["HI"], "negative": ["Hi"]}, "mine": {"file": "mine.safetensors"}}
    block = parse({"directions": own}, folder=tmp_path).blocks[0]
    assert block.items[-2:] == ("loud", "mine")
    assert isinstance(block.source("loud"), Contrast)
    assert isinstance(block.source("mine"), VectorFile)


def test_a_direction_that_is_injected_in_place_of_an_items_own_is_no_item() -> None:
    """A confidence direction, for questions, would become a concept that is to be named, and a distractor."""
    contrast = {"positive": ["HI"], "negative": ["Hi"]}
    asks = {"protocol": "knowing", "questions": "facts", "limit": 2, "direction": "sure", "layers": [4]}
    asks |= {"strengths": [1], "arms": ["none", "concept"]}
    own = SPEC["experiments"][0]
    found = {"directions": {"sure": contrast, "loud": contrast}, "experiments": [own, asks]}
    concepts, _, injected, _ = parse(found).blocks
    assert "loud" in concepts.items
    assert "sure" not in concepts.items
    assert "sure" not in {other for block in parse(found).blocks[:2] for other in block.candidates}
    assert isinstance(injected.direction, Contrast)
    assert injected.direction.name == "sure"
    listed = parse(found | {"experiments": [own | {"concepts": ["bread", "sure"]}, asks]}).blocks[0]
    assert listed.items == ("bread", "sure")  # whoever names it, means it
    assert isinstance(listed.source("sure"), Contrast)


def test_two_experiments_that_overlap_are_asked_once() -> None:
    twice = parse({"experiments": [SPEC["experiments"][0], SPEC["experiments"][0] | {"layers": [5, 6]}]})
    assert sum(b.size for b in plan.difference(twice.blocks, [])) == 3 * 3 * 3 * 2 + 9


def test_sampling_and_template_are_settings(tmp_path: Path) -> None:
    (tmp_path / "mine.jinja").write_text("{{ messages }}")
    found = parse(
        {"sampling": {"temperature": 1}, "template": {"chat": "mine.jinja", "system": "Be brief."}}, folder=tmp_path
    )
    assert found.blocks[0].sampling.temperature == 1.0
    assert found.blocks[0].template.chat == "{{ messages }}"
    cold = parse({"sampling": {"temperature": 1}}, {"sampling": {"temperature": 0}})
    assert cold.blocks[0].sampling.temperature == 0.0


def one_model(**table: str) -> Block:
    return parse({"models": [{"name": "m", "path": "pocket"} | table]}).blocks[0]


def test_the_engine_of_a_model_is_part_of_its_trials_identity() -> None:
    plain, named, fast = one_model(), one_model(engine="transformers"), one_model(engine="vllm")
    assert plain == named
    assert (plain.model.engine, fast.model.engine) == ("transformers", "vllm")
    assert replace(fast.model, engine="transformers") == plain.model
    ids = [{trial.id for trial in block.trials(0)} for block in (plain, fast)]
    assert not ids[0] & ids[1]
    assert group_of(plain.model, plain.template) != group_of(fast.model, fast.template)


def test_editors_can_complete_the_spec() -> None:
    properties = schema()["properties"]
    assert {"name", "models", "concepts", "experiments"} <= properties.keys()
    assert "vllm" in schema()["$defs"]["ModelTable"]["properties"]["engine"]["description"]


def test_the_example_is_a_valid_study() -> None:
    example = Path(study.__file__).parent / "data" / "example.toml"
    assert study.read(example).blocks


@pytest.mark.parametrize("path", sorted((Path(study.__file__).parent.parent / "infra" / "examples").glob("*.toml")))
def test_every_example_plans(path: Path) -> None:
    found = study.read(path)
    assert found.spec.name == path.stem
    assert any("none" in block.arms for block in found.blocks)
    engine = next((name for name in ("vllm", "fake") if name in path.stem), "transformers")
    assert {model.engine for model in found.models} == {engine}


words = st.text(string.ascii_letters + " -_\"'\\\n\0é", max_size=8)
leaves = st.none() | st.booleans() | st.integers(-5, 20) | st.floats(allow_nan=False) | words
values = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3), max_leaves=5
)
top = st.sampled_from(
    [*SPEC, "sampling", "template", "directions", "stimuli", "vector_prompt", "shard_size", "nonsense"]
)
inner = st.sampled_from(
    [
        "protocol",
        "prompts",
        "arms",
        "layers",
        "strengths",
        "spans",
        "norm",
        "mode",
        "repeats",
        "control_repeats",
        "declared",
        "x",
    ]
)


def writable(value: Any) -> bool:
    """TOML has no null, and JSON's surrogates and infinities are not TOML."""
    text = json.dumps(value)
    return "null" not in text and "Infinity" not in text


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
@given(
    outer=st.dictionaries(top, values.filter(writable), max_size=2),
    experiment=st.dictionaries(inner, values.filter(writable), max_size=3),
)
def test_any_spec_is_a_plan_or_a_clear_error(outer: dict[str, Any], experiment: dict[str, Any]) -> None:
    spec = SPEC | {"experiments": [SPEC["experiments"][0] | experiment]} | outer
    found = plan_or_problems(document(spec))
    if isinstance(found, SpecError):
        assert found.problems
        assert all(": " in problem for problem in found.problems)
    else:
        for block in plan.difference(found.blocks, []):
            assert block.trials(0)


def plan_or_problems(text: str) -> study.Study | SpecError:
    try:
        return study.parse(text)
    except SpecError as error:
        return error


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=200))
def test_any_text_is_a_plan_or_a_clear_error(text: str) -> None:
    with pytest.raises(SpecError):
        study.parse(text)


def test_a_grid_of_a_thousand_million_trials_plans_at_once(tmp_path: Path) -> None:
    """The time is a benchmark's matter (make bench NAME=plan); here: that nothing is stored for each trial."""
    many = {"concepts": [f"word{i}" for i in range(10_000)]}
    found = parse(many, {"strengths": [float(s) for s in np.arange(1, 101)], "layers": "all", "repeats": 42})
    assert found.blocks[0].size > 10**9
    grown = plan.grow(Store(tmp_path), found.blocks)
    assert len(grown.blocks) == 2
    assert len(grown.blocks[0].trials(grown.blocks[0].shards - 1)) == grown.blocks[0].size % 256 or 256
    assert sum(f.stat().st_size for f in (tmp_path / "plan").iterdir()) < 2**20


# -- experiments that ask for more than words -------------------------------------------------------------------------

MORE = """
name = "more"
models = ["fake:oracle"]
concepts = "lindsey2025:concepts"
{settings}
[[experiments]]
protocol = "{protocol}"
arms = ["none", "concept"]
layers = [3]
{keys}
"""


def more(protocol: str, keys: str = "", settings: str = "") -> study.Study:
    return study.parse(MORE.format(protocol=protocol, keys=keys, settings=settings))


def test_material_that_is_missing_is_named() -> None:
    with pytest.raises(SpecError, match="localization shows 5 sentences and there are 2; name more"):
        more("localization", settings='sentences = ["One.", "Two."]')
    with pytest.raises(SpecError, match=r"no shipped contrast 'shoutin'. Did you mean 'shouting'\?"):
        more("injected_thought", settings='contrasts = ["shoutin"]')
    with pytest.raises(SpecError, match="kl_of_concept is not measured on prefill's own span"):
        more("prefill", 'strengths = [{ rule = "kl_of_concept", at = 1 }]')
    assert more("injected_thought", 'strengths = [{ rule = "kl_of_concept", at = 1 }]').blocks


def test_orders_that_are_not_all_asked_are_warned_of() -> None:
    told = " ".join(more("localization", "repeats = 4\ncontrol_repeats = 5").warnings)
    assert "repeats: 4, but localization has 5 orders of its sentences" in told
    assert "control_repeats" not in told


def test_patterns_name_optional_wordings_and_nothing_else_does() -> None:
    def asked(keys: str) -> list[str]:
        return [prompt.name for prompt in more("injected_thought", keys).blocks[0].prompts]

    assert asked("") == ["plain", "brief", "formal"]
    assert asked('prompts = ["variant-s*", "plain"]') == ["variant-sceptical", "variant-structured", "plain"]
    with pytest.raises(SpecError, match=r"no wording 'variant-x\*'"):
        asked('prompts = ["variant-x*"]')


def test_a_contrast_is_an_item_like_any_word() -> None:
    found = more("injected_thought", settings='contrasts = ["shouting"]').blocks[0]
    assert found.items[-1] == "shouting"
    assert found.source("shouting").positive[0].isupper()  # type: ignore[union-attr]
    own = more("injected_thought", 'concepts = ["shouting"]', 'contrasts = ["shouting", "fear"]').blocks[0]
    assert own.items == ("shouting",)
