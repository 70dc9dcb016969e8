"""Readers that need the model, and `sweep read`: identities with the model's own logits, and stages that resume."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from msgspec import structs
from safetensors.torch import load_file

from analysis.readers import activations
from analysis.readers.heads import Head
from analysis.readers.probes import Linear
from analysis.selfknowledge import readout
from cluster.engines.transformers import TransformersEngine
from cluster.model import Loaded, describe, load
from cluster.readers import Shard, Unreadable, opener
from cluster.readers.asking import Asker, Way, merged
from cluster.readers.lens import Lens, target
from cluster.readers.perplexity import Perplexity
from cluster.readers.read_head import ReadHead
from sweep import states, study
from sweep.__main__ import main
from sweep.arguments import parser
from sweep.engine import Call, Reading, Receipt, Reply
from sweep.plan import shards_of, trials_of
from sweep.store import Store
from sweep.trial import Anchor, Message, Outcome, Question, Span, Template
from sweep.truths import TRUTHS
from tests import tiny_models
from tests.knowledge import kept

TEMPLATE = Template()


def user(text: str) -> tuple[Message, ...]:
    return (Message(role="user", text=text),)


def answered(engine: TransformersEngine, call: Call) -> Reply:
    async def run() -> Reply:
        future = engine.submit(call)
        while engine.step():
            pass
        return future.result()

    return asyncio.run(run())


def last_states(model: Loaded, text: str, template: Template = TEMPLATE) -> np.ndarray:
    """[layers, hidden] at the prompt's last token."""
    return TransformersEngine(model, nothing).activations([text], template)[0]


def nothing(_: object) -> np.ndarray:
    raise KeyError("nothing is injected here")


# -- lens -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "architecture", ["llama", "gemma2", "gemma3", "gpt2", "gpt_neox", "olmo", "olmo2", "phi", "qwen3"]
)
def test_a_lens_at_the_last_layer_is_what_the_model_says(architecture: str) -> None:
    network = tiny_models.network(architecture)
    taken: list[torch.Tensor] = []
    model = describe(network, tiny_models.tokenizer())
    model.blocks[-1].register_forward_hook(
        lambda _module, _inputs, output: taken.append(output if isinstance(output, torch.Tensor) else output[0])
    )
    ids = torch.tensor([model.tokenizer("Tell me about bread.").input_ids])
    with torch.no_grad():
        own = network(input_ids=ids).logits[0].float()
    assert torch.allclose(Lens(model).logits(taken[0][0]), own, atol=1e-5)


def test_a_model_that_makes_its_logits_otherwise_is_refused() -> None:
    network = tiny_models.network("llama")
    network.lm_head.register_forward_hook(lambda _module, _inputs, output: output * 2)  # type: ignore[union-attr]
    with torch.no_grad():
        Lens(describe(network, tiny_models.tokenizer()))  # the head's own hook is the head
    network.register_forward_hook(lambda _module, _inputs, output: setattr(output, "logits", output.logits / 3))
    with pytest.raises(Unreadable, match="otherwise than by final norm"):
        Lens(describe(network, tiny_models.tokenizer()))


def outcome_of(question: Question, *, rendered: str = "User: hm?\nAssistant:", ids: tuple[int, ...] = (7,)) -> Outcome:
    trial = shard_with({"any": np.zeros((1, 1))}).outcomes[0].trial
    reply = Reply(
        text="x", token_ids=ids, stop="end", options={}, prompt_tokens=3, rendered=rendered, marked=(),
        receipt=Receipt(expected=0, edited=0),
    )  # fmt: skip
    return Outcome(trial=structs.replace(trial, question=question), replies={"answer": reply})


def test_a_lens_looks_for_the_bridge_the_hint_or_the_answer() -> None:
    tokenizer = tiny_models.tokenizer()
    first = lambda text: tokenizer(text, add_special_tokens=False).input_ids[0]
    bridge = Question(name="b", kind="k", text="?", parts=(("bridge", "bread"), ("other_bridge", "oceans")))
    found = target(outcome_of(bridge), tokenizer, TRUTHS["bridge"])
    assert found is not None
    assert (found.token, found.against, found.sign) == (first(" oceans"), first(" bread"), 1)
    logs = torch.log_softmax(torch.arange(512.0), dim=0)
    assert found.score(logs) == pytest.approx(float(first(" oceans") - first(" bread")), rel=1e-4)
    hint = target(
        outcome_of(Question(name="h", kind="k", text="?", parts=(("target", "B"),)), rendered="x\n"),
        tokenizer,
        TRUTHS["hints"],
    )
    assert hint is not None
    assert (hint.token, hint.sign) == (first("B"), 1)
    plain = Question(name="p", kind="k", text="?")
    own = target(outcome_of(plain), tokenizer, TRUTHS["familiarity"])
    assert own is not None
    assert (own.token, own.sign) == (7, -1)
    assert target(outcome_of(plain, ids=()), tokenizer, TRUTHS["knowing"]) is None
    same = Question(name="b", kind="k", text="?", parts=(("bridge", "oceans"), ("other_bridge", "oceans")))
    assert target(outcome_of(same), tokenizer, TRUTHS["bridge"]) is None


# -- perplexity -------------------------------------------------------------------------------------------------------


def test_perplexity_is_over_the_questions_tokens_alone() -> None:
    model = tiny_models.loaded("llama")
    rendered, text = "You are tested.\n\nTell me about bread. Ok?", "Tell me about bread."
    ids = model.tokenizer(rendered, add_special_tokens=False).input_ids
    before = model.tokenizer("You are tested.\n\n", add_special_tokens=False).input_ids
    inside = model.tokenizer(text, add_special_tokens=False).input_ids
    assert ids[len(before) : len(before) + len(inside)] == inside
    with torch.no_grad():
        logs = torch.log_softmax(model.network(input_ids=torch.tensor([ids])).logits[0], dim=-1)
    wanted = -np.mean([float(logs[len(before) + at - 1, token]) for at, token in enumerate(inside)])
    found = Perplexity(model)
    assert found.surprise(rendered, text) == pytest.approx(wanted, rel=1e-5)
    assert found.surprise(rendered, "absent") is None


# -- asking a model about a state -------------------------------------------------------------------------------------


MARK = Way(name="p", wording="A thought: ?\n{asked}", mode="replace", norm="raw", at=None, layers=None)


def shard_with(vectors: dict[str, np.ndarray], position: str = "question") -> Shard:
    spec = kept("knowing", "arithmetic", len(vectors))
    [block] = study.parse(spec).blocks
    trials = [trial for name in shards_of(block) for trial in trials_of(block, name)]
    data = states.to_parquet([(t.id, {position: v}) for t, v in zip(trials, vectors.values(), strict=True)])
    assert data is not None
    return Shard(block=block, outcomes=tuple(Outcome(trial=trial) for trial in trials), data=data)


def test_putting_the_marks_own_state_in_its_place_changes_nothing() -> None:
    model = tiny_models.loaded("llama")
    asker = Asker(model, MARK, 0)
    text = "A thought: ?\nDoes whoever thinks this know the right answer? Answer with A or B. (A) Yes (B) No"
    mark = Span(start=Anchor(turn=0, char=11), stop=Anchor(turn=0, char=12))
    plain = answered(asker._engine, Call(trial="t", messages=user(text), template=TEMPLATE, options=("A", "B"),
                                         readings=(Reading(span=mark),), max_tokens=0))  # fmt: skip
    own = torch.from_numpy(plain.readings[0][0])
    shard = shard_with({"own": own.numpy(), "other": 3 * np.random.default_rng(0).normal(size=own.shape)})
    verdicts = list(asker.read(shard))
    assert [(each.seen.layer, each.seen.position) for each in verdicts][::2] == [
        (layer, "question") for layer in range(4)
    ]
    undone = [each.score for each in verdicts if each.seen.outcome is shard.outcomes[0]]
    changed = [each.score for each in verdicts if each.seen.outcome is shard.outcomes[1]]
    orders = [_odds(asker, order) for order in ("(A) Yes (B) No", "(A) No (B) Yes")]
    wanted = (orders[0] - orders[1]) / 2
    assert undone == pytest.approx([wanted] * 4, abs=1e-4)  # bfloat16
    assert max(abs(each - wanted) for each in changed if each is not None) > 0.005


def test_states_that_are_alike_are_asked_about_once_and_each_has_its_verdict() -> None:
    model = tiny_models.loaded("llama")
    own, other = (3 * np.random.default_rng(seed).normal(size=model.shape) for seed in (0, 1))
    both = np.concatenate([own[:1], other[1:]])  # alike at the first layer, and behind the last nothing is heard
    asker, asked = Asker(model, MARK, 0), list[Call]()
    submit = asker._engine.submit
    asker._engine.submit = lambda call: (asked.append(call), submit(call))[1]
    together = list(asker.read(shard_with({"a": own, "b": both, "c": own})))
    assert len(asked) == 2 * (1 + 2 + 2 + 1)
    alone = [list(asker.read(shard_with({"a": each}))) for each in (own, both, own)]
    for seen, verdicts in zip(zip(*[iter(together)] * 3, strict=True), zip(*alone, strict=True), strict=True):
        assert [each.score for each in seen] == pytest.approx([each.score for each in verdicts], abs=1e-5)


def _odds(asker: Asker, order: str) -> float:
    text = f"A thought: ?\nDoes whoever thinks this know the right answer? Answer with A or B. {order}"
    found = answered(
        asker._engine, Call(trial="t", messages=user(text), template=TEMPLATE, options=("A", "B"), max_tokens=0)
    )
    return found.options["A"] - found.options["B"]


@pytest.fixture
def adapter(tmp_path: Path) -> Callable[..., Path]:
    """A LoRA as peft saves it, with dropout in its config, which would be felt if it were ever switched on."""

    def made(name: str, scale: float, architecture: str = "llama") -> Path:
        from peft import LoraConfig, get_peft_model

        torch.manual_seed(1)
        config = LoraConfig(
            r=2, lora_alpha=4, lora_dropout=0.5, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"
        )
        whole = get_peft_model(tiny_models.network(architecture), config)
        for key, parameter in whole.named_parameters():
            if "lora_B" in key:
                parameter.data = scale * torch.randn_like(parameter)
        whole.save_pretrained(tmp_path / name)
        return tmp_path / name

    return made


def logits(model: Loaded) -> torch.Tensor:
    with torch.no_grad():
        return model.network(input_ids=torch.tensor([[3, 10, 17]])).logits


def test_an_adapters_weights_become_the_models_own(adapter: Callable[..., Path]) -> None:
    plain = logits(tiny_models.loaded("llama"))
    nought, _, _ = merged(tiny_models.loaded("llama"), adapter("nought", 0.0), MARK)
    assert torch.allclose(logits(nought), plain, atol=1e-6)
    folder = adapter("some", 0.5)
    some, _, parameters = merged(tiny_models.loaded("llama"), folder, MARK)
    assert parameters == sum(each.numel() for each in load_file(folder / "adapter_model.safetensors").values())
    assert not torch.allclose(logits(some), plain, atol=1e-3)
    assert torch.equal(logits(some), logits(some)), "its dropout is on"
    assert not [name for name, _ in some.network.named_modules() if "lora" in name]
    weights = load_file(folder / "adapter_model.safetensors")
    key = "base_model.model.model.layers.0.self_attn.q_proj.lora_{}.weight"
    added = 2 * weights[key.format("B")] @ weights[key.format("A")]
    before, after = (each.blocks[0].self_attn.q_proj.weight for each in (tiny_models.loaded("llama"), some))
    assert torch.allclose(after - before, added, atol=1e-6)


def test_an_oracle_adds_a_state_with_the_length_of_what_is_there(adapter: Callable[..., Path]) -> None:
    """So the state's own length does not matter, and its direction does; three layers of the model are asked about."""
    way = Way(name="o", wording="Layer: {layer}\n ?\n{asked}", mode="add", norm="residual", at=1, layers=(1, 2, 3))
    asker = Asker(*merged(tiny_models.loaded("llama"), adapter("a", 0.3), way))
    v = np.random.default_rng(0).normal(size=(4, tiny_models.HIDDEN)).astype(np.float32)
    verdicts = list(asker.read(shard_with({"one": v, "long": 4 * v, "turned": -v}, "after")))
    assert [each.seen.layer for each in verdicts[::3]] == [1, 2, 3]
    one, long, turned = (np.array([each.score for each in verdicts[at::3]]) for at in range(3))
    assert one == pytest.approx(long, abs=1e-4)
    assert np.abs(one - turned).max() > 0.01
    assert asker.parameters > 0
    assert asker.forwards == 2


def test_two_adapters_of_one_folder_name_are_two_oracles(adapter: Callable[..., Path]) -> None:
    names = [opener(f"oracle:{adapter(name, scale)}")[0] for name, scale in (("a/o", 0.3), ("b/o", 0.4), ("c/o", 0.3))]
    assert names[0] == names[2] != names[1]
    assert all(re.fullmatch(r"oracle-o-[0-9a-f]{8}", name) for name in names)
    seen = {"trial": ["t"], "reader": names[:1], "layer": [1], "position": ["after"], "score": [0.5],
            "forwards": [2], "parameters": [9]}  # fmt: skip
    trials = pl.DataFrame({"trial": ["t"], "split": ["dev"], "truth": [1.0], "cluster": ["q"]})
    assert [each.source.rung for each in readout.readers(trials, pl.DataFrame(seen))] == ["oracle"]


def test_what_is_no_adapter_of_this_model_says_so(adapter: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "adapter_model.bin").write_bytes(b"pickled")
    with pytest.raises(Unreadable, match=r"holds no adapter_model\.safetensors"):
        merged(tiny_models.loaded("llama"), tmp_path / "empty", MARK)
    with pytest.raises(Unreadable, match=r"holds no adapter_model\.safetensors"):
        opener(f"oracle:{tmp_path / 'empty'}")
    with pytest.raises(Unreadable, match="does not fit this model"):
        merged(tiny_models.loaded("gpt2"), adapter("a", 0.3), MARK)


# -- the head ---------------------------------------------------------------------------------------------------------


def test_a_head_beside_the_model_says_what_it_says_of_kept_states() -> None:
    model, text = tiny_models.loaded("llama"), "Tell me about bread."
    state = last_states(tiny_models.loaded("llama"), text)[2]
    weight = np.random.default_rng(0).normal(size=tiny_models.HIDDEN)
    fitted = Head(position="question", layer=2, linear=Linear(weight=weight, bias=0.3), slope=0.05, intercept=0.1)
    head = ReadHead.of(json.loads(json.dumps(fitted.as_json())))
    wanted = float(fitted.calibrated(fitted.linear(state[None]))[0])
    reply, p = asyncio.run(head.introspect(TransformersEngine(model, nothing), user(text), TEMPLATE, 5))
    assert p == pytest.approx(wanted, rel=1e-4)
    assert 0 < p < 1
    plain = answered(TransformersEngine(tiny_models.loaded("llama"), nothing),
                     Call(trial="", messages=user(text), template=TEMPLATE, max_tokens=5))  # fmt: skip
    assert reply.token_ids == plain.token_ids, "reading changes what is said"


# -- the command ------------------------------------------------------------------------------------------------------

SPEC = """
name = "reads"
models = ["pocket"]
shard_size = 4
[[experiments]]
protocol = "familiarity"
questions = "unfamiliar"
limit = 10
states = true
arms = ["none"]
"""
ALL = ["lens", "perplexity", "patchscopes"]


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[dict[str, object]]:
    assert main([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)["readers"]


def test_the_pocket_models_states_are_read_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = str(tmp_path / "r")
    (tmp_path / "s.toml").write_text(SPEC)
    assert main(["run", str(tmp_path / "s.toml"), "--run", run, "--in-process", "--json"]) == 0
    capsys.readouterr()
    shards = len(list((tmp_path / "r" / "states").iterdir()))
    assert shards > 1
    assert [each["shards"] for each in said(capsys, "read", run, "--reader", *ALL)] == [shards] * 3
    frame = activations.said(Store(tmp_path / "r"))
    many = frame["trial"].n_unique()
    assert set(frame["reader"]) == {"lens", "lens-rank", "perplexity", "patchscopes"}
    assert frame.filter(pl.col("score").is_null()).is_empty()
    counts = dict(frame.group_by("reader").len().iter_rows())
    layers = load(study.parse(SPEC).blocks[0].model).layers
    assert counts == {
        "lens": many * layers,
        "lens-rank": many * layers,
        "perplexity": many,
        "patchscopes": many * layers,
    }
    forwards = dict(frame.select("reader", "forwards").unique().iter_rows())
    assert forwards == {"lens": 0, "lens-rank": 0, "perplexity": 1, "patchscopes": 2}
    # the last layer's lens is the answer's own log-probability, with the sign of a strange question
    assert (frame.filter(pl.col("reader") == "lens")["score"] > 0).all()
    assert [each["shards"] for each in said(capsys, "read", run, "--reader", *ALL)] == [0, 0, 0]
    (tmp_path / "s.toml").write_text(SPEC.replace("limit = 10", "limit = 24"))
    assert main(["run", str(tmp_path / "s.toml"), "--run", run, "--in-process", "--json"]) == 0
    capsys.readouterr()
    more = len(list((tmp_path / "r" / "states").iterdir())) - shards
    assert more > 0
    assert [each["shards"] for each in said(capsys, "read", run, "--reader", "perplexity")] == [more]
    grown = activations.said(Store(tmp_path / "r")).filter(pl.col("reader") == "perplexity")
    assert many < grown["trial"].n_unique() == grown.height


def test_a_probe_finds_what_the_knower_holds_where_it_holds_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "s.toml").write_text(kept("knowing", "arithmetic", 120))
    run = str(tmp_path / "r")
    assert main(["run", str(tmp_path / "s.toml"), "--run", run, "--in-process", "--json"]) == 0
    capsys.readouterr()
    found = {(str(each["model"]), str(each["reader"])): each for each in said(capsys, "read", run, "--reader", "probe",
             "mass-mean", "read-head", "length", "cosine", "lens")}  # fmt: skip
    for reader in ("probe", "mass-mean", "read-head"):
        each = found["fake-knower", reader]
        assert 3 <= each["chosen"]["layer"] <= 5  # type: ignore[index] - the layers that hold it
        assert each["confirm"]["value"] > 0.8  # type: ignore[index]
        assert abs(each["shuffled"]["mean"] - 0.5) < 0.2  # type: ignore[index]
    assert "plain questions" in str(found["fake-knower", "cosine"]["missing"])
    assert "fake subject" in str(found["fake-knower", "lens"]["missing"])
    frame = activations.said(Store(tmp_path / "r"))
    heads = frame.filter((pl.col("reader") == "read-head") & (pl.col("model") == "fake-knower"))
    assert heads["words"].str.contains(r"^layer [345]: I will get this (right|wrong) \(p = (\.\d\d|1\.00)\)$").all()
    assert heads["parameters"].unique().to_list() == [16 + 1 + 2]
    assert (frame.filter(pl.col("reader") == "length")["score"] < 0).all()  # of a long sum it is less sure
    again = said(capsys, "read", run, "--reader", "probe")
    assert all(each["before"] for each in again)
    with monkeypatch.context() as later:  # the same states, scored by another method
        later.setattr(activations, "METHOD", activations.METHOD + 1)
        assert activations.said(Store(tmp_path / "r")).is_empty()
        assert not any("before" in each for each in said(capsys, "read", run, "--reader", "length"))
        assert set(activations.said(Store(tmp_path / "r"))["reader"]) == {"length"}


def test_what_cannot_be_read_says_what_to_type(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "s.toml").write_text(kept("knowing", "arithmetic", 3).replace("states = true", ""))
    run = str(tmp_path / "r")
    assert main(["run", str(tmp_path / "s.toml"), "--run", run, "--in-process", "--json"]) == 0
    assert main(["read", run, "--json"]) == 1
    assert "states = true" in capsys.readouterr().out
    assert main(["read", run, "--reader", "lenz", "--json"]) == 1
    assert "did you mean 'lens'" in capsys.readouterr().out
    assert main(["read", run, "--ask", "What is 2 + 2?", "--json"]) == 1
    assert "--reader read-head" in capsys.readouterr().out
    assert main(["read", run, "--ask", " ", "--json"]) == 1
    assert "nothing is asked" in capsys.readouterr().out
    assert main(["read", run, "--ask", "What is 2 + 2?", "--reader", "lens", "--json"]) == 1
    assert "--ask is for the read-head alone, not lens: leave --reader out" in capsys.readouterr().out


def test_every_reader_that_is_named_is_meant() -> None:
    named = parser().parse_args(["read", "r", "--reader", "probe", "lens", "--reader", "length"])
    assert named.reader == ["probe", "lens", "length"]
    assert parser().parse_args(["read", "r"]).reader == []
