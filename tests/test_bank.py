"""The bank's rows against a device that holds whatever was last written there."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.engines.bank import Bank, BankFull, digest

VECTORS = np.random.default_rng(0).standard_normal((9, 4)).astype(np.float32)


def test_a_vector_is_known_by_its_content() -> None:
    bank = Bank(5)
    apart = np.asfortranarray(VECTORS.copy())[3]
    assert not apart.flags.c_contiguous
    assert digest(apart) == digest(VECTORS[3])
    assert bank.hold(VECTORS[3]) == bank.hold(apart)
    assert bank.hold(VECTORS[3])[1] != bank.hold(VECTORS[4])[1]
    near = VECTORS[0].copy()
    near[-1] += 1e-6
    assert len({digest(vector) for vector in (*VECTORS, -VECTORS[0], near)}) == 11


def test_each_vector_is_sent_once_and_never_to_row_zero() -> None:
    bank = Bank(5)
    for vector in (*VECTORS[:4], VECTORS[0]):
        bank.hold(vector)
    sent = bank.unsent()
    assert sent is not None
    rows, vectors = sent
    assert rows == [1, 2, 3, 4]
    assert {digest(vector) for vector in vectors} == {digest(vector) for vector in VECTORS[:4]}
    assert bank.unsent() is None
    bank.hold(VECTORS[1])
    assert bank.unsent() is None


def test_the_least_recently_used_goes_first() -> None:
    bank = Bank(4)
    names = [bank.hold(vector)[0] for vector in VECTORS[:3]]
    rows = [bank.hold(vector)[1] for vector in VECTORS[:3]]
    bank.drop(names * 2)
    bank.drop([bank.hold(VECTORS[0])[0]])  # used again: now the second is the oldest
    assert bank.hold(VECTORS[5])[1] == rows[1]
    assert bank.hold(VECTORS[6])[1] == rows[2]
    assert bank.hold(VECTORS[0])[1] == rows[0]


def test_a_row_is_held_until_it_was_dropped_as_often_as_it_was_held() -> None:
    bank = Bank(2)
    name, row = bank.hold(VECTORS[0])
    assert bank.hold(VECTORS[0]) == (name, row)
    bank.drop([name])
    with pytest.raises(BankFull, match=r"1 rows all belong to calls in flight: .*--serve bank_rows="):
        bank.hold(VECTORS[1])
    bank.drop([name])
    assert bank.held == 0
    assert bank.hold(VECTORS[1])[1] == row


@given(moves=st.lists(st.tuples(st.booleans(), st.integers(0, len(VECTORS) - 1)), max_size=60), rows=st.integers(2, 6))
def test_whatever_happens_the_device_has_what_a_call_holds(moves: list[tuple[bool, int]], rows: int) -> None:
    bank, device, held = Bank(rows), np.zeros((rows, 4), np.float32), list[tuple[bytes, int, int]]()
    for holds, which in moves:
        if holds:
            try:
                held.append((*bank.hold(VECTORS[which]), which))
            except BankFull:
                assert len({number for _, _, number in held}) == rows - 1
        elif held:
            bank.drop([held.pop(which % len(held))[0]])
        if which % 2 and (sent := bank.unsent()) is not None:
            device[sent[0]] = sent[1]
    if (sent := bank.unsent()) is not None:
        device[sent[0]] = sent[1]
    assert bank.held == len(held)
    assert not device[0].any()
    for _, row, which in held:
        np.testing.assert_array_equal(device[row], VECTORS[which])
