"""What a vLLM engine must show before it may answer: that an injection does what it says, and nothing else.

transformers is the judge (vllm_reference.py). What vLLM shares of its prefix cache is held against what it shares
between prompts that are not injected.
"""

from __future__ import annotations

import typing
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from msgspec import structs

from cluster.engines.calls import Asked, Read
from cluster.engines.vllm_reference import SCORED, WRITTEN, Probe, Reference, probes, scored, vector
from cluster.injection import NEVER, Edit
from cluster.model import Outline
from cluster.render import Rendered
from sweep.engine import Call, EngineUnavailable, InjectionContradiction, Reply
from sweep.trial import Template

if typing.TYPE_CHECKING:
    from cluster.engines.vllm import VllmEngine
    from cluster.engines.vllm_core import Core

HOT = 5.0  # temperature at which a model that is sure of its word draws others too
FAILED = (
    'the vLLM engine\'s self-test failed, so nothing is run on it: {}. Say engine = "transformers" in the spec, or '
    "report this with the versions of vLLM and of the model"
)

# Nats, mean over the scored tokens: what another order of the same sums may come to, and no injection of ours.
TOLERANCE = {"float32": 1e-3, "float16": 0.05, "bfloat16": 0.25}


# -- the engine -------------------------------------------------------------------------------------------------------


def run(engine: VllmEngine, wanted: Reference) -> tuple[str, ...]:
    """Every check; what is worth knowing, one line each. Raises EngineUnavailable with all that failed."""
    try:
        return _run(engine, Bench(engine, wanted))
    except InjectionContradiction as error:
        raise EngineUnavailable(FAILED.format(error)) from error


def _run(engine: VllmEngine, bench: Bench) -> tuple[str, ...]:
    notes = [f"vLLM {engine.version}, model runner {engine.ranks.runner}, {engine.ranks.count} ranks"]
    if bench.poisoned():
        engine.queue.keyed = False
        notes.append("vLLM did not take our key of its prefix cache: injected prompts are salted, and share no prefix")
    if engine.graphs:
        wrong = bench.graphs()
        notes.append(
            f"CUDA graphs are off: {wrong}" if wrong else "CUDA graphs are on: they give what eager steps give"
        )
        if wrong:
            keyed = engine.queue.keyed
            engine.reopen_without_graphs()
            engine.queue.keyed = keyed
    failed = [f"{name}: {why}" for name, check in CHECKS.items() if (why := check(bench))]
    bench.core.forget()
    if failed:
        raise EngineUnavailable(FAILED.format("; ".join(failed)))
    return tuple(notes)


class Bench:
    """An engine, and the probes as calls to it."""

    def __init__(self, engine: VllmEngine, wanted: Reference) -> None:
        self.engine, self.wanted = engine, wanted
        self.outline = engine.outline
        self.exact = engine.model.dtype == "float32"
        self.tolerance = TOLERANCE[engine.model.dtype]
        self.probes = {probe.name: probe for probe in probes(self.outline.layers, len(wanted.ids))}

    @property
    def core(self) -> Core:
        assert self.engine.core is not None
        return self.engine.core

    def asked(self, probe: Probe, *, tokens: int = 1) -> Asked:
        ids = self.wanted.ids
        call = Call(
            trial=f"self-test ({probe.name})",
            messages=(),
            template=Template(),
            options=tuple(map(str, range(SCORED))),
            max_tokens=tokens,
        )
        edits = () if probe.layer is None else (self._edit(probe, probe.layer),)
        return Asked(
            call=call,
            rendered=Rendered(text="", ids=ids, offsets=(), turns=()),
            spans=(),
            edits=edits,
            reads=(),
            option_ids=tuple(scored(self.outline)),
            floor=min(probe.start, len(ids) - 1),
        )

    def _edit(self, probe: Probe, layer: int) -> Edit:
        return Edit(
            layer=layer,
            start=probe.start,
            stop=NEVER,
            strength=probe.strength,
            norm=1.0,
            vector=vector(layer, self.outline.hidden),
            residual=probe.mode != "project_out",
            project=probe.mode == "project_out",
            keep=probe.mode != "replace",
        )

    def scores(self, *asked: Probe) -> list[np.ndarray]:
        return [_scores(reply) for reply, _ in self.engine.ask([self.asked(probe) for probe in asked])]

    def verdict(self, name: str) -> np.ndarray:
        return np.array(self.wanted.verdicts[name].scores)

    def apart(self, one: np.ndarray, other: np.ndarray) -> float:
        """Mean difference, nats."""
        return float(np.abs(one - other).mean())

    def poisoned(self) -> bool:
        """Whether a prompt reads blocks that were computed under another injection, or under none: each after the
        other, injected from the first token on."""
        loud = Probe(name="loud", layer=0, strength=64.0, mode="project_out")
        found: list[np.ndarray] = []
        for pair in ((loud, self.probes["plain"]), (self.probes["plain"], loud)):
            self.core.forget()
            found += [self.scores(probe)[0] for probe in pair]
        plain, plainly = found[1:3]
        return self.apart(plain, plainly) > self.tolerance or self.apart(found[0], found[3]) > self.tolerance

    def graphs(self) -> str:
        """What is wrong with CUDA graphs, of prompts and of the steps of an answer, or nothing."""
        found: list[list[np.ndarray]] = []
        for on in (False, True):
            if not all(self.core.call("sweep_graphs", on)):
                return "none were captured, or they cannot be switched off to compare"
            self.core.forget()
            found.append([scores for _ in range(2) for scores in self.scores(*self.probes.values())])
        worst = max(self.apart(*pair) for pair in zip(*found, strict=True))
        return f"they differ from eager steps by {worst:.2g} nats" if worst > self.tolerance else ""


def _scores(reply: Reply) -> np.ndarray:
    return np.array(list(reply.options.values()))


# -- the checks: what is wrong, or nothing ----------------------------------------------------------------------------


def _no_strength(bench: Bench) -> str:
    plain, none = bench.scores(bench.probes["plain"], replace(bench.probes["everywhere"], strength=0.0))
    gap = bench.apart(plain, none)
    return f"strength 0 moves log-probabilities by {gap:.2g}" if gap > bench.tolerance else ""


def _every_layer(bench: Bench) -> str:
    """In one batch, and among them some that are not injected."""
    start = len(bench.wanted.ids) // 2
    loud = [Probe(name=f"loud {n}", layer=n, strength=8.0, start=start) for n in range(bench.outline.layers)]
    found = bench.scores(*(each for one in loud for each in (one, bench.probes["plain"])))
    plain = bench.verdict("plain")
    deaf = [n for n, scores in enumerate(found[::2]) if not bench.apart(scores, plain) > 3 * bench.tolerance]
    moved = sum(bench.apart(scores, plain) > bench.tolerance for scores in found[1::2])
    if deaf:
        return f"a large injection changes nothing at layers {deaf}"
    return f"{moved} prompts that were not injected moved beside others that were" if moved else ""


def _parity(bench: Bench) -> str:
    """Cold, and again on a warm cache: then only the last token is computed, as it is in an answer."""
    wrong: list[str] = []
    bench.core.forget()
    for state in ("cold", "warm"):
        replies = bench.engine.ask([bench.asked(probe, tokens=WRITTEN) for probe in bench.probes.values()])
        for (name, verdict), (reply, _) in zip(bench.wanted.verdicts.items(), replies, strict=True):
            gap = bench.apart(_scores(reply), np.array(verdict.scores))
            if gap > bench.tolerance:
                wrong.append(f"{name}, {state} ({gap:.2g} nats)")
            elif bench.exact and list(reply.token_ids) != _until_end(verdict.tokens, bench.outline):
                wrong.append(f"{name}, {state} (other tokens)")
    return f"not what transformers says: {', '.join(wrong)}" if wrong else ""


def _drawn(bench: Bench) -> str:
    """Above temperature 0 tokens come from our seeds, not vLLM's; that all were drawn by us is the workers' count."""
    asked = bench.asked(bench.probes["plain"], tokens=2 * WRITTEN)
    seeded = [
        replace(asked, call=structs.replace(asked.call, temperature=HOT, seed=seed)) for seed in (1, 1, *range(2, 16))
    ]
    texts = [reply.token_ids for reply, _ in bench.engine.ask(seeded)]
    if bench.exact and texts[0] != texts[1]:
        return "one seed gave two answers"
    return "sixteen seeds gave one answer" if len(set(texts)) == 1 else ""


def _until_end(tokens: Sequence[int], outline: Outline) -> list[int]:
    ends = [place for place, token in enumerate(tokens) if token in outline.ends]
    return list(tokens[: ends[0]] if ends else tokens)


def _parity_matters(bench: Bench) -> str:
    """The probes must move the model by more than the tolerance, or agreement would say nothing."""
    plain = bench.verdict("plain")
    still = [
        n for n in bench.probes if n.startswith("layer") and bench.apart(bench.verdict(n), plain) < bench.tolerance
    ]
    return f"the probes at {', '.join(still)} hardly move this model" if still else ""


def _shared(bench: Bench) -> str:
    """An injected prompt finds as much of the clean prefix as a prompt that differs from there on, and a repeat of it
    as much of its own as a repeat of a plain one: what vLLM shares at all depends on the model's attention."""
    probe, engine, ids = bench.probes[f"layer {bench.outline.layers - 1}"], bench.engine, bench.wanted.ids
    plain = bench.asked(bench.probes["plain"])
    changed = (*ids[: probe.start], *((token + 1) % len(bench.outline.tokenizer) for token in ids[probe.start :]))
    parts = replace(plain, rendered=replace(plain.rendered, ids=changed))
    counts: list[list[int]] = []
    for asked in (parts, bench.asked(probe)):
        bench.core.forget()
        engine.ask([plain])
        counts.append([engine.ask([asked])[0][1] for _ in range(2)])
    (could, could_again), (did, again) = counts
    if did != (could if engine.queue.keyed else 0):
        return f"{did} tokens of the clean prefix were shared, {could} could be"
    return f"a repeat found {again} tokens of its own, {could_again} were there" if again != could_again else ""


def _reads(bench: Bench) -> str:
    """Norms at every layer of two positions, one of them in the shared prefix, on a warm cache."""
    asked, layers = bench.asked(bench.probes["plain"]), tuple(range(bench.outline.layers))
    bench.engine.ask([asked])
    nothing = np.zeros((0, len(layers), 0), np.float32)
    at = [1, len(bench.wanted.ids) - 1]
    reads = tuple(Read(measure="norm", start=p, stop=p + 1, layers=layers, vectors=nothing) for p in at)
    replies = [reply for reply, _ in bench.engine.ask([replace(asked, reads=(r,), floor=r.start) for r in reads])]
    found = np.concatenate([reply.readings[0] for reply in replies])
    right = np.array(bench.wanted.verdicts["plain"].norms)[at]
    gap = float(np.abs(found / right - 1).max())
    return f"residual norms differ by {gap:.1%} from transformers'" if gap > 0.1 * bench.tolerance**0.5 else ""


CHECKS: dict[str, Callable[[Bench], str]] = {
    "strength 0": _no_strength,
    "every layer": _every_layer,
    "parity": _parity,
    "probes": _parity_matters,
    "drawing": _drawn,
    "shared prefix": _shared,
    "readings": _reads,
}
