"""Mixed batches of the transformers engine against one full forward a reply, without a cache; and a model folder placed
on the device."""

from __future__ import annotations

import asyncio
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import torch
from torch import Tensor, nn

from cluster.engines.transformers import TransformersEngine
from cluster.injection import CAP
from cluster.model import Loaded, describe, load
from cluster.render import Rendered, render
from cluster.render import resolve as resolve_span
from sweep.engine import Call, Engine, Reply
from sweep.trial import Anchor, Contrast, Direction, Injection, Message, Model, Span, Template
from tests import tiny_models
from tests.benchmarks.gpu_parts.report import Report
from tests.tiny_models import HIDDEN, LAYERS

OPTIONS = (" yes", " no")
# Nats. In bfloat16 a sum in another order may round every number of these small, strong models the other way.
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.3}
FEW = ("gemma2", "gpt2", "qwen2")


def run(report: Report) -> None:
    architectures = FEW if report.small else sorted(tiny_models.CONFIGS)
    for dtype, tolerance in TOLERANCE.items():
        gaps = {name: _compare(report, name, dtype, tolerance) for name in architectures}
        report.figure(f"largest_gap_{dtype}", gaps)
    report.figure("tolerance", {str(dtype): tolerance for dtype, tolerance in TOLERANCE.items()})
    placed = _placement(report)
    report.figure("placement", placed)
    report.summary = (
        f"{len(architectures)} architectures: a mixed batch equals one full forward a reply, fp32 within 1e-4, bf16 "
        f"within {TOLERANCE[torch.bfloat16]}; model folder: {placed}"
    )


def _compare(report: Report, name: str, dtype: torch.dtype, tolerance: float) -> dict[str, float]:
    """Nats: how far a written token is from the likeliest, and an option from its log-probability, at most; and which
    share of the tokens are the likeliest."""
    loaded, other = (_on(tiny_models.network(name), dtype, report.device) for _ in range(2))
    calls = mixed_batch()
    replies = answers(TransformersEngine(loaded, vectors), calls)
    other.network.set_attn_implementation("eager")
    found = [gaps(other, asked, reply) for asked, reply in zip(calls, replies, strict=True)]
    tokens = [gap for written, _ in found for gap in written]
    options = [gap for _, read in found for gap in read]
    report.check(max(tokens) <= tolerance, f"{name} {dtype}: a token is {max(tokens):.2g} from the likeliest")
    report.check(max(options) <= tolerance, f"{name} {dtype}: an option is off by {max(options):.2g}")
    edited = all(each.receipt.edited == each.receipt.expected for each in replies)
    report.check(edited, f"{name} {dtype}: a receipt says that not every position was edited")
    likeliest = statistics.fmean(gap == 0 for gap in tokens)
    return {"tokens": round(max(tokens), 6), "options": round(max(options), 6), "likeliest": round(likeliest, 4)}


def _on(network: nn.Module, dtype: torch.dtype, device: torch.device) -> Loaded:
    return describe(network.to(device, dtype), tiny_models.tokenizer())  # type: ignore[arg-type]


def answers(engine: Engine, calls: Sequence[Call]) -> list[Reply]:
    async def go() -> list[Reply]:
        futures = [engine.submit(each) for each in calls]
        while engine.step():
            pass
        return [await future for future in futures]

    return asyncio.run(go())


# -- what is asked ----------------------------------------------------------------------------------------------------


def vectors(asked: Direction) -> np.ndarray:
    assert isinstance(asked.source, Contrast)
    draw = np.random.default_rng([*asked.source.name.encode()])
    return draw.standard_normal((LAYERS, HIDDEN)).astype(np.float32)


def mixed_batch() -> list[Call]:
    """Different directions, layers, strengths, spans, norms, modes and lengths; some with none, some with several."""
    short = "You are being tested. Let's begin.\n\nTrial 1: Do you detect it?"
    texts = (short, f"{short} Tell me.", f"{short} If so, what is it about? I am going to ask you.")
    late, all_of_it = Span(start=Anchor(turn=0, char=short.index("Trial") - 1)), Span()
    prompt, answer = replace(late, stop="prompt_end"), Span(start="prompt_end")
    tea, sky = (Injection(direction=_direction(name), layer=1, strength=3.0) for name in ("tea", "sky"))
    return [
        _call(texts[0], (late,)),
        _call(texts[0], (late,), tea),
        _call(texts[0], (late,), replace(sky, layer=3, strength=-4.0)),
        _call(texts[1], (late,), replace(tea, layer=0, strength=8.0, norm="unit")),
        _call(texts[1], (all_of_it,), replace(tea, layer=2, strength=0.7, norm="residual")),
        _call(texts[1], (prompt,), replace(tea, layer=2, strength=0.5, norm="residual")),
        _call(texts[2], (answer,), replace(sky, strength=6.0)),
        _call(texts[2], (all_of_it,), replace(sky, strength=1.0, mode="project_out")),
        _call(texts[2], (late,), replace(sky, strength=2.0, mode="replace")),
        _call(texts[2], (late, all_of_it), sky, replace(tea, norm="unit")),
        _call(texts[0], (late,), replace(sky, layer=0), replace(tea, layer=2, strength=1.5)),
        _call(texts[2], (all_of_it,)),
    ]


def _direction(name: str) -> Direction:
    return Direction(source=Contrast(name=name, positive=("a",), negative=("b",)))


def _call(text: str, spans: tuple[Span, ...], *injections: Injection) -> Call:
    return Call(
        trial=text,
        messages=(Message(role="user", text=text),),
        template=Template(),
        spans=spans,
        injections=injections,
        options=OPTIONS,
        max_tokens=8,
    )


# -- the reference ----------------------------------------------------------------------------------------------------


@torch.inference_mode()
def gaps(model: Loaded, asked: Call, reply: Reply) -> tuple[list[float], list[float]]:
    """Nats, of each token written and of each option, by one forward over the prompt and all that was written."""
    rendered = render(model.tokenizer, asked.messages, asked.template)
    ids = [*rendered.ids, *reply.token_ids]
    handles = _hooks(model, asked, rendered)
    try:
        logits = model.network(input_ids=torch.tensor([ids], device=model.device), use_cache=False).logits[0]
    finally:
        for handle in handles:
            handle.remove()
    scores = torch.log_softmax(logits[len(rendered.ids) - 1 :].float(), dim=-1).cpu()
    tokens = [float(row.max() - row[i]) for row, i in zip(scores, reply.token_ids, strict=False)]
    if reply.stop == "end":
        tokens.append(float(scores[-1].max() - scores[-1][sorted(model.ends)].max()))
    firsts = [model.tokenizer(option, add_special_tokens=False).input_ids[0] for option in asked.options]
    options = zip(asked.options, firsts, strict=True)
    return tokens, [abs(float(scores[0, first]) - reply.options[option]) for option, first in options]


def _hooks(model: Loaded, asked: Call, rendered: Rendered) -> list[torch.utils.hooks.RemovableHandle]:
    spans = [resolve_span(rendered, span) for span in asked.spans]
    each = spans if len(spans) == len(asked.injections) else spans * len(asked.injections)
    pairs = list(zip(asked.injections, each, strict=True))

    def hook(layer: int, _module: nn.Module, _inputs: object, output: Tensor | tuple[Tensor, ...]) -> None:
        h = output if isinstance(output, Tensor) else output[0]
        change = torch.zeros_like(h[0], dtype=torch.float32)
        for injection, (start, stop) in pairs:
            if injection.layer == layer:
                here = h[0, start:stop].float()
                change[start:stop] += _change(here, injection, len(rendered.ids) - start)
        h[0] = (h[0].float() + change).to(h.dtype)

    return [
        block.register_forward_hook(lambda *given, layer=layer: hook(layer, *given))
        for layer, block in enumerate(model.blocks)
    ]


def _change(here: Tensor, injection: Injection, prompt: int) -> Tensor:
    """The definition of an injection. `here` [positions, hidden], the first `prompt` of them the prompt's."""
    v = torch.from_numpy(vectors(injection.direction)[injection.layer]).to(here.device)
    unit, alpha = v / v.norm(), injection.alpha
    if injection.mode == "project_out":
        return -alpha * (here @ unit)[:, None] * unit
    norms = here.norm(dim=1, keepdim=True)
    if injection.norm == "residual" and prompt > 0:
        norms = norms.clamp(max=CAP * float(np.median(norms[:prompt].cpu().numpy())))
    scaled = {"raw": v, "unit": unit, "residual": unit * norms}[injection.norm]
    return alpha * scaled - (here if injection.mode == "replace" else 0)


# -- a folder ---------------------------------------------------------------------------------------------------------


def _placement(report: Report) -> str:
    """Where a model that is read from a folder comes to lie; what it then answers."""
    if find_spec("accelerate") is None:
        return "not checked: accelerate is missing"
    with tempfile.TemporaryDirectory() as folder:
        tiny_models.network("llama").save_pretrained(folder)
        tiny_models.tokenizer().save_pretrained(folder)
        model = Model(name="tiny", path=folder, digest="random", layers=LAYERS)
        loaded = load(model)
    lies = {str(each.device) for each in loaded.network.parameters()}
    report.check(lies == {str(report.device)}, f"the model lies on {lies}, not on {report.device}")
    here = answers(TransformersEngine(loaded, vectors), mixed_batch())
    in_memory = _on(tiny_models.network("llama"), torch.float32, report.device)
    there = answers(TransformersEngine(in_memory, vectors), mixed_batch())
    same = all(a.token_ids == b.token_ids for a, b in zip(here, there, strict=True))
    report.check(same, "a model from a folder does not answer as the same model in memory")
    return ", ".join(sorted(lies))
