"""A CUDA graph captured around the edit inside a toy stack, replayed after the buffers changed: the same as eager."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from cluster.engines.buffers import Buffers
from cluster.engines.kernel import Form, form_for, register, touch
from tests.benchmarks.gpu_parts import edits
from tests.benchmarks.gpu_parts.edits import LAYERS, Request
from tests.benchmarks.gpu_parts.report import Report

TOKENS = 512
# Per token, as `apart` has it: a product may be summed in another order inside a graph. A missing edit is far more.
SAME = {torch.float32: 1e-5, torch.bfloat16: 2e-2}

Capture = Callable[[Callable[[], None]], Callable[[], None]]  # the work, captured: called, it is done again


@dataclass(frozen=True)
class Stack:
    """Blocks as vLLM's are: each adds what is deferred, and returns (hidden, residual). `x` and `output` are at fixed
    addresses."""

    linears: list[nn.Linear]
    x: Tensor
    output: Tensor
    handle: int

    @torch.inference_mode()
    def __call__(self) -> None:
        residual, hidden = self.x.clone(), torch.zeros_like(self.x)
        for layer, linear in enumerate(self.linears):
            residual = residual + hidden
            hidden = linear(residual)
            touch(hidden, residual, self.handle, layer)
        self.output.copy_(residual + hidden)


def run(report: Report) -> None:
    form = form_for(report.device, torch.float32)
    report.figure("form", form)
    if form != "triton":
        report.check(False, "the Triton form is not chosen on this GPU, and the torch form cannot be captured")
        return
    found = {str(dtype): check(report, capture, form, dtype, 1024) for dtype in SAME}
    report.figure("cases", found)
    total = sum(len(cases) for cases in found.values())
    report.summary = f"{total} replays after the buffers changed equal eager runs, counts too"


def capture(work: Callable[[], None]) -> Callable[[], None]:
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # warmed up, as capture wants it
        work()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return graph.replay


def check(report: Report, capture: Capture, form: Form, dtype: torch.dtype, hidden: int) -> dict[str, float]:
    """Every case eager and replayed, by one capture made while nothing was laid. How far apart, of the norm."""
    into = edits.buffers(hidden, dtype, report.device, tokens=TOKENS)
    stack = _stack(into, register(into, form))
    into.clear()
    replay = capture(stack)
    plain = _done(stack, stack)
    found: dict[str, float] = {}
    last: list[Request] = []
    for name, requests in cases(into):
        last = requests
        eager, counts = _eager(into, requests, stack)
        edits.lay(into, requests)
        again, edited = _done(stack, replay), _counted(into)
        found[name] = apart(again, eager)
        report.check(found[name] <= SAME[dtype], f"{dtype} {name}: a replay is {found[name]:.2g} from eager")
        want = expected(requests, len(edited))
        mine = [each.slot for each in requests if each.slot >= 0]
        right = torch.equal(edited[mine], want[mine]) and torch.equal(counts[mine], want[mine])
        report.check(right, f"{dtype} {name}: counts differ from what spans and lengths say")
        moved, many = apart(again, plain), int(want.sum())
        told = moved > 10 * SAME[dtype] if many else moved <= SAME[dtype]
        report.check(told, f"{dtype} {name}: {many} edits moved the output by {moved:.2g}")
    edits.lay(into, last)
    into.clear()
    still = apart(_done(stack, replay), plain)
    report.check(still <= SAME[dtype], f"{dtype}: a replay after clear is {still:.2g} from the stack without edits")
    return found


def apart(one: Tensor, other: Tensor) -> float:
    """||difference|| by ||h||, of the token where that is largest; infinite if a number is not finite."""
    if not bool(one.isfinite().all() and other.isfinite().all()):
        return float("inf")
    return float(((one - other).norm(dim=1) / other.norm(dim=1)).max())


def cases(into: Buffers) -> Iterator[tuple[str, list[Request]]]:
    """What changes between two replays: rows, strengths, spans and slots; nothing to do; the bank."""
    draw = np.random.default_rng(7)
    first = edits.mixed(draw, into.sizes.hidden, 24)
    yield "mixed", first
    yield "other rows and spans", edits.mixed(draw, into.sizes.hidden, 30)
    yield "none", [Request(slot=n, scheduled=1, computed=5) for n in range(20)]
    yield "fewer", [request for request in first if request.edits][:3]
    into.load(1, -into.bank[1:].cpu().numpy())
    yield "another bank", first


def expected(requests: list[Request], slots: int) -> Tensor:
    """(position, injection) pairs, from spans and lengths alone."""
    counts = torch.zeros(slots, edits.MOST, dtype=torch.int32)
    for request in requests:
        for number, edit in enumerate(request.edits):
            inside = request.inside(edit)
            counts[request.slot, number] = inside.stop - inside.start
    return counts


def _stack(into: Buffers, handle: int) -> Stack:
    torch.manual_seed(0)
    sizes = into.sizes
    linears = [nn.Linear(sizes.hidden, sizes.hidden, device=sizes.device, dtype=sizes.dtype) for _ in range(LAYERS)]
    x = torch.randn(sizes.tokens, sizes.hidden, device=sizes.device).to(sizes.dtype)
    return Stack(linears, x, torch.zeros_like(x), handle)


def _counted(into: Buffers) -> Tensor:
    return into.counts.cpu().clone()


def _eager(into: Buffers, requests: list[Request], stack: Stack) -> tuple[Tensor, Tensor]:
    edits.lay(into, requests)
    return _done(stack, stack), _counted(into)


def _done(stack: Stack, work: Callable[[], None]) -> Tensor:
    """What the stack put out, poisoned before."""
    stack.output.fill_(torch.nan)
    work()
    return stack.output.float().cpu().clone()
