"""What a driver holds of many shards in few bytes, against dictionaries, queues and plain sums."""

from __future__ import annotations

import random
import tracemalloc
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweep.driving.run import shared
from sweep.driving.scheduler import Shard
from sweep.driving.tally import tally
from sweep.driving.waiting import Line
from sweep.names import Groups, Names, numbered
from sweep.store import Store, committed, each_record, publish, records

NAMES = (
    "a-000000",
    "a-000001",
    "b-000007",
    "a-000003.0",
    "a-0000001",
    "a-12",
    "000001",
    "-000001",
    "é-００００００",
)


@pytest.mark.parametrize("seed", range(10))
def test_groups_are_a_dictionary_and_a_line_is_a_queue(seed: int) -> None:
    dice, known, queue = random.Random(seed), dict[str, str](), deque[str]()
    groups, line = Groups(), Line()
    for _ in range(200):
        name, group = dice.choice(NAMES), f"g{dice.randrange(300)}"  # more groups than a byte can tell apart
        act = dice.randrange(5)
        if act == 0:
            assert groups.pop(name) == known.pop(name, None)
        elif act == 1:
            known[name] = group
            groups.add(name, group)
        elif act == 2:
            queue.append(name)
            line.append(name)
        elif act == 3:
            queue.appendleft(name)
            line.appendleft(name)
        elif queue:
            line.popleft()
            queue.popleft()
        assert {each: groups.get(each) for each in groups} == known
        assert len(groups) == len(known)
        assert (name in groups) == (name in known)
        assert (line.first(), list(line)) == (queue[0] if queue else None, list(queue))


def test_only_what_comes_back_as_it_was_counts_as_numbered() -> None:
    assert [name for name in NAMES if numbered(name)] == ["a-000000", "a-000001", "b-000007", "-000001"]
    assert numbered("a-1000000") == ("a", 1_000_000)


def cell(arm: str, **numbers: int) -> dict[str, Any]:
    return {"model": "m", "protocol": "p", "arm": arm, **numbers}


def test_records_add_up_and_are_those_that_are_read_at_once(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for number in range(5):
        counts = [cell("none", ok=number, error=1), cell("concept", ok=2, error=0)][: 1 + number % 2]
        publish(store, "trials", f"a-{number:06d}", b"", "parquet", {"rows": 3, "tokens": number, "counts": counts})
    publish(store, "trials", "a-000009", b"", "parquet", {"split": ["a-000009.0"]})
    found = list(each_record(store, "trials"))
    assert dict(found) == records(store, "trials")
    assert [name for name, _ in found] == [f"a-{number:06d}" for number in range(5)]
    total = tally(record for _, record in found)
    assert (total["rows"], total["tokens"], total["verdicts"]) == (15, 10, [])
    assert total["counts"] == [cell("none", ok=10, error=5), cell("concept", ok=4, error=0)]
    assert tally([total, total])["counts"] == [cell("none", ok=20, error=10), cell("concept", ok=8, error=0)]


@given(st.sets(st.sampled_from(NAMES)), st.sets(st.sampled_from(NAMES)))
def test_names_are_a_set(some: set[str], others: set[str]) -> None:
    one, other = Names(some), Names(others)
    assert (set(one), len(one), one) == (some, len(some), some)
    assert (one - other, one | others, others - one) == (some - others, some | others, others - some)
    assert (one <= other, others <= one) == (some <= others, others <= some)
    one.update(others)
    assert one == some | others
    for name in others:
        one.discard(name)
    assert one == some - others


def test_what_a_driver_holds_of_a_committed_or_waiting_shard_is_a_few_bytes(tmp_path: Path) -> None:
    """With lists and sets of names it would be some hundreds."""
    count, folder = 4000, tmp_path / "commits" / "trials"
    folder.mkdir(parents=True)
    for number in range(count):
        (folder / f"0123456789abcdef-{number:06d}.json").write_text('{"rows": 3}')
    files = Store(tmp_path)
    waits = (Shard(name=f"0123456789abcdef-{number:06d}", group="g") for number in range(count))
    assert bytes_at_most(lambda: len(committed(files, "trials")) == count) < 60 * count
    assert bytes_at_most(lambda: sum(1 for _ in shared(waits, 3, 8)) == count) < 60 * count
    few = bytes_at_most(lambda: sum(each["rows"] for _, each in each_record(files, "trials")) == 3 * count)
    assert few < 60 * count


def bytes_at_most(right: Callable[[], bool]) -> int:
    tracemalloc.start()
    assert right()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak
