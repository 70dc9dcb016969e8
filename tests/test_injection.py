"""The edit itself: modes, norms, sums, counts."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cluster.injection import CAP, NEVER, Edit, Hooks, Table, apply, resolve
from sweep.trial import Contrast, Direction, Injection, StrengthRule

SHAPE = (3, 8)
TEA = Direction(source=Contrast(name="tea", positive=("a",), negative=("b",)))
VECTOR = np.arange(24, dtype=np.float32).reshape(SHAPE) - 4


def vectors(direction: Direction) -> np.ndarray:
    return {"none": VECTOR, "negated": -VECTOR, "random": 3 * VECTOR[::-1], "shuffled": 0 * VECTOR}[direction.change]


def edit(start: int = 0, stop: int | None = None, *, direction: Direction = TEA, **settings: object) -> Edit:
    injection = Injection(direction=direction, **{"layer": 1, "strength": 2.0, **settings})  # type: ignore[arg-type]
    return resolve(injection, (start, stop), vectors, SHAPE)


def edited(h: Tensor, *edits: tuple[int, Edit], prompt: bool = True) -> tuple[Tensor, Table]:
    """h [batch, width, hidden] after the edits of (row, edit), at positions 0, 1, ..."""
    numbered = [(row, number, each) for number, (row, each) in enumerate(edits)]
    table = Table.of(numbered, torch.device("cpu"))
    new = h.clone()
    apply(new, torch.arange(h.shape[1]).expand(len(h), -1), table, prompt=prompt)
    return new, table


def stream(rows: int = 2, width: int = 5) -> Tensor:
    return torch.randn(rows, width, SHAPE[1], generator=torch.Generator().manual_seed(0))


V = torch.from_numpy(VECTOR[1])
UNIT = V / V.norm()


def test_modes_and_norms_are_what_the_nouns_say() -> None:
    h = stream()
    here = h[1, 2:4]
    norms = here.norm(dim=-1, keepdim=True)
    wanted = {
        ("add", "raw"): here + 2 * V,
        ("add", "unit"): here + 2 * UNIT,
        ("add", "residual"): here + 2 * norms * UNIT,
        ("replace", "raw"): (2 * V).expand_as(here),
        ("replace", "unit"): (2 * UNIT).expand_as(here),
        ("replace", "residual"): 2 * norms * UNIT,
        ("project_out", "raw"): here - 2 * (here @ UNIT)[:, None] * UNIT,
        ("project_out", "unit"): here - 2 * (here @ UNIT)[:, None] * UNIT,
        ("project_out", "residual"): here - 2 * (here @ UNIT)[:, None] * UNIT,
    }
    for (mode, norm), states in wanted.items():
        new, table = edited(h, (1, edit(2, 4, mode=mode, norm=norm)))
        torch.testing.assert_close(new[1, 2:4], states, msg=f"{mode} {norm}")
        assert torch.equal(new[0], h[0])
        assert torch.equal(new[1, [0, 1, 4]], h[1, [0, 1, 4]])
        assert table.tally[0, 0] == 2


def test_project_out_at_one_leaves_nothing_of_the_direction() -> None:
    new, _ = edited(stream(), (0, edit(mode="project_out", strength=1.0)))
    torch.testing.assert_close(new[0] @ UNIT, torch.zeros(5), atol=1e-5, rtol=0)


def test_a_residual_norm_is_capped_by_its_span_s_prompt_positions() -> None:
    h = stream(width=7)
    h[0, 0] *= 1000  # a first token as models have them
    usual = float(np.median(h[0].norm(dim=-1).numpy()))
    new, table = edited(h, (0, edit(norm="residual", strength=0.5)))
    moved = (new - h)[0].norm(dim=-1)
    assert float(h[0, 0].norm()) > CAP * usual
    assert moved[0].item() == pytest.approx(0.5 * CAP * usual, rel=1e-3)
    torch.testing.assert_close(moved[1:], 0.5 * h[0, 1:].norm(dim=-1))

    # The cap that the prompt set holds for what is generated after it.
    later = 1000 * torch.ones(1, 1, SHAPE[1])
    before = later.clone()
    apply(later, torch.tensor([[7]]), table, prompt=False)
    assert (later - before).norm().item() == pytest.approx(0.5 * CAP * usual, rel=1e-3)


def test_a_span_without_prompt_positions_has_no_cap() -> None:
    h = stream(rows=1)
    _, table = edited(h, (0, edit(9, norm="residual", strength=1.0)))
    later = 1e6 * torch.ones(1, 1, SHAPE[1])
    apply(later, torch.tensor([[9]]), table, prompt=False)
    torch.testing.assert_close(later[0, 0] - 1e6, 1e6 * SHAPE[1] ** 0.5 * UNIT, rtol=1e-3, atol=1.0)


def test_injections_of_one_row_are_summed_before_they_are_added() -> None:
    h = 1e6 * stream()
    opposite = Direction(source=TEA.source, change="negated")
    for norm in ("raw", "unit", "residual"):
        both = ((0, edit(norm=norm)), (0, edit(norm=norm, direction=opposite)))
        new, table = edited(h, *both)
        assert torch.equal(new, h)
        assert table.tally[:, 0].tolist() == [5, 5]
        assert table.tally[:, 2].tolist() == [0, 0]
    one, two = edit(0, 3, strength=1.5), edit(2, strength=-0.5, norm="unit")
    small = stream()
    new, _ = edited(small, (0, one), (0, two))
    torch.testing.assert_close(new[0, 2], small[0, 2] + 1.5 * V - 0.5 * UNIT)
    torch.testing.assert_close(new[0, 0], small[0, 0] + 1.5 * V)
    torch.testing.assert_close(new[0, 4], small[0, 4] - 0.5 * UNIT)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_no_strength_changes_no_bit(dtype: torch.dtype) -> None:
    h = stream().to(dtype)
    for norm in ("raw", "unit", "residual"):
        new, table = edited(h, (0, edit(strength=0.0, norm=norm)), (1, edit(strength=0.0, mode="project_out")))
        assert torch.equal(new, h)
        assert table.tally[:, 0].tolist() == [5, 5]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_rounded_once(dtype: torch.dtype) -> None:
    h = stream().to(dtype)
    new, _ = edited(h, (0, edit(strength=0.37)))
    assert new.dtype == dtype
    assert torch.equal(new[0], (h[0].float() + np.float32(0.37) * V).to(dtype))
    replaced, _ = edited(1000 * h, (0, edit(strength=0.37, mode="replace")))
    torch.testing.assert_close(replaced[0].float(), (0.37 * V).expand(5, -1), rtol=1e-2, atol=1e-2)


def test_padding_is_neither_edited_nor_counted() -> None:
    h = stream()
    new, places = h.clone(), torch.tensor([[3, 4, 5, -1, -1], [3, 4, 5, 6, 7]])
    table = Table.of([(0, 0, edit(4)), (1, 0, edit(4, 6))], torch.device("cpu"))
    apply(new, places, table, prompt=True)
    assert [(new[row] != h[row]).any(dim=1).tolist() for row in (0, 1)] == [
        [False, True, True, False, False],
        [False, True, True, False, False],
    ]
    assert table.tally[:, 0].tolist() == [2, 2]


def test_what_is_counted() -> None:
    h = stream()
    _, table = edited(h, (1, edit(1, 4)), (1, edit(2, strength=-1.0)))
    total = torch.stack([2 * V, V, V, -V]).norm(dim=-1)
    assert table.tally[:, 0].tolist() == [3, 3]
    assert table.tally[0, 1] == table.tally[1, 1] == 4
    assert table.tally[0, 2].item() == pytest.approx(float(total.sum()), rel=1e-5)
    assert table.tally[0, 3].item() == pytest.approx(float(h[1, 1:].norm(dim=-1).sum()), rel=1e-5)


def test_tables_follow_their_rows() -> None:
    whole = Table.of([(0, 0, edit(1)), (2, 0, edit(2)), (2, 1, edit(3))], torch.device("cpu"))
    joined = whole.joined(Table.of([(0, 0, edit(4))], torch.device("cpu")).shifted(3))
    assert joined.row.tolist() == [0, 2, 2, 3]
    moved = joined.moved(torch.tensor([-1, 1, 0, 2]))
    assert moved is not None
    assert moved.row.tolist() == [0, 0, 2]
    assert moved.start.tolist() == [2, 3, 4]
    assert moved.number.tolist() == [0, 1, 0]
    assert whole.moved(torch.tensor([-1, 0, -1])) is None


def test_a_block_may_return_a_tensor_or_a_tuple() -> None:
    class Block(nn.Module):
        def __init__(self, wrap: bool) -> None:
            super().__init__()
            self.wrap = wrap

        def forward(self, h: Tensor) -> Tensor | tuple[Tensor, str]:
            return (h * 1, "more") if self.wrap else h * 1

    h = stream()
    for wrap in (False, True):
        block = Block(wrap)
        hooks = Hooks([nn.Identity(), block])
        places = torch.arange(5).expand(2, -1)
        hooks.run({1: Table.of([(0, 0, edit())], h.device)}, places, prompt=True)
        output = block(h)
        new = output[0] if wrap else output
        torch.testing.assert_close(new[0], h[0] + 2 * V)
        assert torch.equal(new[1], h[1])
        hooks.run({}, None, prompt=False)
        after = block(h)
        assert torch.equal(after[0] if wrap else after, h)


# -- what is asked ----------------------------------------------------------------------------------------------------


def test_a_span_that_never_ends() -> None:
    assert (edit(3).start, edit(3).stop) == (3, NEVER)
    assert edit(3, 5).stop == 5


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"layer": 3}, "layers 0 to 2"),
        ({"layer": -1}, "layers 0 to 2"),
        ({"norm": "unit"}, "zero at layer 1"),
        ({"norm": "residual"}, "zero at layer 1"),
        ({"mode": "project_out"}, "zero at layer 1"),
        ({"strength": StrengthRule(at=1.0)}, "was not resolved"),
    ],
)
def test_what_has_no_answer_is_an_error(settings: dict[str, object], reason: str) -> None:
    zero = dataclasses.replace(TEA, change="shuffled", draw=0)
    with pytest.raises(ValueError, match=reason) as error:
        edit(direction=zero, **settings)
    assert reason != "zero at layer 1" or "tea" in str(error.value)


def test_a_direction_of_another_model_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"\(3, 8\)"):
        resolve(Injection(direction=TEA, layer=0, strength=1.0), (0, None), vectors, (3, 9))
