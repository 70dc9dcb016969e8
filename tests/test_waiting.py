"""What a driver holds of many shards in few bytes, against dictionaries, queues and plain sums."""

from __future__ import annotations

import random
from collections import deque
from pathlib import Path
from typing import Any

import pytest

from sweep.driving.tally import tally
from sweep.driving.waiting import Groups, Line, numbered
from sweep.store import Store, each_record, publish, records

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
