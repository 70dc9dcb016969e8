"""The edit of a flat batch: each form against the definition, and what a touch costs however many injections differ."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec

import numpy as np
import torch
from torch import Tensor

from cluster.engines.buffers import Buffers, SlotEdit
from cluster.engines.kernel import Form, form_for, register, touch
from tests import triton_on_cpu
from tests.benchmarks.gpu_parts import edits
from tests.benchmarks.gpu_parts.edits import LAYERS, Request
from tests.benchmarks.gpu_parts.report import Report

# One rounding to the dtype, of a sum whose last bits may differ. float32 has the second part only.
ROUNDING = {torch.float32: 0.0, torch.bfloat16: 2.0**-7, torch.float16: 2.0**-10}
SUMMING = 1e-5  # of a row's largest number
FLAT = 2.0  # times as long with all injections different as with one, at most; a loop over them would be 100 times
TOKENS = 1024


@dataclass(frozen=True, kw_only=True)
class Size:
    """Widths of the residual stream, tokens that a step may have, and how many random steps are compared."""

    widths: tuple[int, ...]
    tokens: int = TOKENS
    steps: int = 3


def run(report: Report) -> None:
    forms, interpreted = _forms(report)
    report.figure("forms", {form: "interpreted" if form in interpreted else "native" for form in forms})
    size = Size(widths=(64, 80) if report.small else (4096, 5120))
    few = Size(widths=(80,), tokens=256, steps=1)  # the interpreter takes milliseconds a program
    errors = {form: _equality(report, form, few if form in interpreted else size) for form in forms}
    report.figure("largest_error", errors)
    times = {form: _times(report, form, size.widths[0]) for form in forms if form not in interpreted}
    report.figure("lay_us", lay_times(size.widths[0], report.device))
    form = [form for form in forms if form in times][-1]
    idle, one, many = (times[form][name] for name in ("idle", "1024 of 1", "1024 of 1024"))
    report.summary = (
        f"{' and '.join(forms)} equal the definition; {form}, a touch of {size.widths[0]}: idle {idle} us, "
        f"1024 edits {one} us with one injection, {many} us with 1024"
    )


def _forms(report: Report) -> tuple[tuple[Form, ...], tuple[Form, ...]]:
    """The forms there are here, and those of them that only Triton's interpreter can run."""
    if report.device.type == "cuda":
        report.check(
            form_for(report.device, torch.float32) == "triton", "Triton is missing, so the edit is slow on this GPU"
        )
        return ("torch", form_for(report.device, torch.float32)), ()
    if find_spec("triton") is None:
        return ("torch",), ()
    triton_on_cpu.install()
    return ("torch", "triton"), ("triton",)


# -- is it right? -----------------------------------------------------------------------------------------------------


def _equality(report: Report, form: Form, size: Size) -> dict[str, float]:
    """By dtype, the largest error as a share of what is allowed."""
    worst: dict[str, float] = {}
    for dtype, hidden, deferred in itertools.product(ROUNDING, size.widths, (False, True)):
        into = edits.buffers(hidden, dtype, report.device, tokens=size.tokens)
        handle = register(into, form)
        for seed in range(size.steps):
            name = f"{form} {dtype} {hidden} {'hidden+residual' if deferred else 'hidden'} seed {seed}"
            error = compare(report, into, handle, seed=seed, deferred=deferred, name=name)
            worst[str(dtype)] = max(worst.get(str(dtype), 0.0), round(error, 4))
    return worst


def compare(report: Report, into: Buffers, handle: int, *, seed: int, deferred: bool, name: str) -> float:
    """One mixed step at every layer against the definition. The largest error as a share of what is allowed."""
    sizes, draw = into.sizes, np.random.default_rng(seed)
    requests = edits.mixed(draw, sizes.hidden)
    pieces = edits.lay(into, requests)
    torch.manual_seed(seed)
    tokens = sum(each.scheduled for each in requests) + 7  # a padded batch: nothing may touch the tail
    counts, sums = torch.zeros_like(into.counts.cpu()), torch.zeros_like(into.sums.cpu(), dtype=torch.float64)
    worst = 0.0
    for layer in range(LAYERS):
        hidden, other = (torch.randn(tokens, sizes.hidden, device=sizes.device).to(sizes.dtype) for _ in range(2))
        residual = other if deferred else None
        output = hidden + other if deferred else hidden
        want = edits.wanted(into.bank, requests, output, layer, sizes.slots)
        kept = (hidden.clone(), other.clone())
        touch(hidden, residual, handle, layer)
        error = _error(other if deferred else hidden, want.output, output, want.edited)
        worst = max(worst, error)
        report.check(error <= 1, f"{name} layer {layer}: off by {error:.2f} of what is allowed")
        still = all(
            torch.equal(now[~want.edited], then[~want.edited]) for now, then in zip((hidden, other), kept, strict=True)
        )
        report.check(still, f"{name} layer {layer}: a token outside every span was written")
        if deferred:
            report.check(not hidden[want.edited].any(), f"{name} layer {layer}: hidden is not zero where edited")
        after = hidden + other if deferred else hidden
        report.check(_read(into, after, requests, pieces, layer), f"{name} layer {layer}: what was read differs")
        counts, sums = counts + want.counts, sums + want.sums
    mine = [each.slot for each in requests if each.slot >= 0]  # others still hold what an earlier step counted
    report.check(torch.equal(into.counts.cpu()[mine], counts[mine]), f"{name}: counts differ")
    close = torch.allclose(into.sums.cpu().double()[mine], sums[mine], rtol=1e-3, atol=1e-3)
    report.check(close, f"{name}: sums of norms differ")
    return worst


def _error(now: Tensor, want: Tensor, before: Tensor, edited: Tensor) -> float:
    """The largest error at edited tokens as a share of what is allowed there; infinite if a number is not finite."""
    if not bool(edited.any()):
        return 0.0
    rounding = ROUNDING[want.dtype]
    now, want, before = now[edited].float(), want[edited].float(), before[edited].float()
    largest = torch.maximum(want.abs().amax(1), before.abs().amax(1))[:, None]
    error = (now - want).abs() / (rounding * want.abs() + SUMMING * largest)
    return float(error.max()) if bool(now.isfinite().all()) else float("inf")


def _read(
    into: Buffers, after: Tensor, requests: list[Request], pieces: list[tuple[int, int, int, int]], layer: int
) -> bool:
    """Whether every token that was to be read lies where `lay` said, as it is after the edit."""
    found = {slot: (low, into.captured[layer, index : index + many]) for slot, low, index, many in pieces}
    token, right = 0, True
    for request in requests:
        if request.slot >= 0 and request.read is not None:
            low, captured = found.pop(request.slot)
            begin = token + low - request.computed
            many = request.read[1] - request.read[0]
            right &= low == request.read[0] and torch.equal(captured, after[begin : begin + many])
        token += request.scheduled
    return right and not found


# -- what does it cost? -----------------------------------------------------------------------------------------------


def _times(report: Report, form: Form, hidden: int) -> dict[str, float]:
    """Microseconds of the GPU per touch of `entries` tokens, one entry each, with so many different injections.

    On a GPU out of a captured graph (Triton form), so that what the host does beside it is left out; `eager`: with it.
    """
    into = edits.buffers(hidden, torch.bfloat16, report.device, tokens=TOKENS, rows=TOKENS + 1)
    handle = register(into, form)
    residual = torch.randn(TOKENS, hidden, device=report.device).bfloat16()
    x = torch.zeros_like(residual)
    one = lambda: touch(x, residual, handle, 0)
    captured = form == "triton" and report.device.type == "cuda"
    into.clear()
    found = {"idle": _per_call(one, captured), "eager idle": _per_call(one, captured=False)}
    for entries, different in itertools.product((256, TOKENS), (1, 64, TOKENS)):
        different = min(entries, different)
        edits.lay(into, decoding(entries, different))
        found[f"{entries} of {different}"] = _per_call(one, captured)
    found["eager 1024 of 1024"] = _per_call(one, captured=False)
    report.figure(f"us_per_touch_{form}", {name: round(value, 2) for name, value in found.items()})
    ratios = {entries: found[f"{entries} of {entries}"] / found[f"{entries} of 1"] for entries in (256, TOKENS)}
    report.figure(f"different_by_one_{form}", {str(entries): round(ratio, 2) for entries, ratio in ratios.items()})
    if captured:  # elsewhere the clock is a neighbour's as much as ours
        for entries, ratio in ratios.items():
            report.check(ratio < FLAT, f"{entries} edits take {ratio:.2f} times as long if all injections differ")
    return {name: round(value, 1) for name, value in found.items()}


def decoding(entries: int, different: int, computed: int = 100) -> list[Request]:
    """One token each, every one edited at layer 0 by one of so many injections. Strengths are small, as a touch is
    repeated in place."""

    def edit(number: int) -> SlotEdit:
        row = 1 + number % different
        return SlotEdit(layer=0, start=50, stop=2**31 - 1, row=row, kind=0, strength=1e-4)

    return [Request(slot=n, scheduled=1, computed=computed, edits=(edit(n),)) for n in range(entries)]


def _per_call(work: Callable[[], None], captured: bool) -> float:
    """Microseconds, the median of several bursts."""
    calls = 50 if torch.cuda.is_available() else 5

    def burst() -> None:
        for _ in range(calls):
            work()

    burst()  # compiles
    run = burst
    if captured:
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            burst()
        run = graph.replay
    return statistics.median(seconds(run) for _ in range(7)) / calls * 1e6


def seconds(work: Callable[[], None]) -> float:
    """Of the device where there is one, by its own events; else of the clock."""
    if not torch.cuda.is_available():
        start = time.perf_counter()
        work()
        return time.perf_counter() - start
    first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    first.record()
    work()
    last.record()
    last.synchronize()
    return first.elapsed_time(last) / 1e3


def lay_times(hidden: int, device: torch.device) -> dict[str, float]:
    """Microseconds of the host to lay a step of 1024 single tokens with 1024 different injections: as the step before
    left them, and with every slot newly assigned."""
    into = edits.buffers(hidden, torch.bfloat16, device, tokens=TOKENS, rows=TOKENS + 1)
    requests = decoding(TOKENS, TOKENS)
    step = edits.step(requests)
    found: dict[str, list[float]] = {"all new": [], "unchanged": []}
    for _ in range(9):
        for request in requests:
            into.assign(request.slot, request.edits, None)
        for times in found.values():
            start = time.perf_counter()
            into.lay(step)
            times.append(time.perf_counter() - start)
    return {name: round(statistics.median(times) * 1e6) for name, times in found.items()}
