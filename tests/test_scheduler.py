"""Every shard ends exactly once, whatever is lost, late, or told twice."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from sweep.scheduler import Budgets, Lease, RunFailed, Scheduler, Shard, Spent


def scheduler(count: int = 6, groups: int = 1, **changes: object) -> Scheduler:
    shards = [Shard(name=f"s-{number}", group=f"g-{number % groups}") for number in range(count)]
    return Scheduler(stage="trials", driver="d", shards=shards, **changes)  # type: ignore[arg-type]


def test_two_leases_are_in_flight_at_each_replica() -> None:
    it = scheduler()
    first, second = it.next("a"), it.next("a")
    assert first is not None
    assert second is not None
    assert it.next("a") is None
    assert it.next("b") is not None
    it.done(first.shards[0])
    it.ended(first)
    assert it.next("a") is not None


def test_a_replica_keeps_the_model_it_has_loaded() -> None:
    it = scheduler(count=12, groups=2)
    for _ in range(3):
        for replica in ("a", "b"):
            lease = it.next(replica)
            assert lease is not None
            it.done(lease.shards[0])
            it.ended(lease)
    groups = {replica: it._loaded[replica] for replica in ("a", "b")}
    assert set(groups.values()) == {"g-0", "g-1"}  # and two replicas share two models between them


def test_a_replica_moves_on_when_its_model_has_nothing_left() -> None:
    it = scheduler(count=4, groups=4)
    seen = set()
    while (lease := it.next("a")) is not None:
        seen.add(lease.group)
        it.done(lease.shards[0])
        it.ended(lease)
    assert it.finished
    assert len(seen) == 4


def test_what_was_lost_is_next() -> None:
    it = scheduler()
    lost = it.next("a")
    assert lost is not None
    it.charge(lost, "losses", "killed")
    it.ended(lost)
    it.gone("a")
    again = it.next("b")
    assert again is not None
    assert again.shards == lost.shards
    assert again.id != lost.id
    assert (lost.attempts, again.attempts) == ((0,), (1,))


@pytest.mark.parametrize(("to", "budget"), [("errors", 3), ("losses", 20)])
def test_each_budget_has_its_own_end(to: str, budget: int) -> None:
    it = scheduler(count=1)
    for _ in range(budget - 1):
        lease = it.next("a")
        assert lease is not None
        it.charge(lease, to, "why")  # type: ignore[arg-type]
        it.ended(lease)
    lease = it.next("a")
    assert lease is not None
    with pytest.raises(RunFailed, match=r"s-0 .* last: why; see events/ .* run the same command again") as caught:
        it.charge(lease, to, "why")  # type: ignore[arg-type]
    assert caught.value.shard == "s-0"


def test_what_was_spent_before_counts() -> None:
    it = scheduler(count=1, spent={"s-0": Spent(leases=5, errors=2)})
    lease = it.next("a")
    assert lease is not None
    assert lease.attempts == (5,)
    with pytest.raises(RunFailed):
        it.charge(lease, "errors", "again")


def test_a_failure_of_a_lease_that_is_over_costs_nothing() -> None:
    it = scheduler(count=1, budgets=Budgets(errors=1, losses=1))
    lease = it.next("a")
    assert lease is not None
    it.done("s-0")
    it.ended(lease)
    it.charge(lease, "errors", "late")
    it.ended(lease)
    assert it.finished


class Replicas(RuleBasedStateMachine):
    """A world in which replicas die, answer late, answer twice, and other drivers commit the same shards."""

    def __init__(self) -> None:
        super().__init__()
        self.ended: Counter[str] = Counter()
        self.history: list[Lease] = []

    @initialize(count=st.integers(0, 12), groups=st.integers(1, 3), per_lease=st.integers(1, 4))
    def begin(self, count: int, groups: int, per_lease: int) -> None:
        self.budgets = Budgets(errors=10_000, losses=10_000)
        self.it = scheduler(count, groups, per_lease=per_lease, budgets=self.budgets)
        self.names = {f"s-{number}" for number in range(count)}

    @rule(replica=st.sampled_from("abc"))
    def lease(self, replica: str) -> None:
        lease = self.it.next(replica)
        if lease is not None:
            assert lease.replica == replica
            assert not set(lease.shards) & set(self.ended)
            self.history.append(lease)

    @rule(data=st.data())
    @precondition(lambda self: self.history)
    def answer(self, data: st.DataObject) -> None:
        """Of any lease ever given: in flight, lost meanwhile, or answered before."""
        lease = data.draw(st.sampled_from(self.history))
        for name in lease.shards:
            self.ended[name] += self.it.done(name)
        self.it.ended(lease)

    @rule(data=st.data(), to=st.sampled_from(["errors", "losses"]))
    @precondition(lambda self: self.history)
    def fail(self, data: st.DataObject, to: str) -> None:
        lease = data.draw(st.sampled_from(self.history))
        self.it.charge(lease, to, "why")  # type: ignore[arg-type]
        self.it.ended(lease)

    @rule(data=st.data())
    @precondition(lambda self: self.history)
    def part_of_it_is_committed(self, data: st.DataObject) -> None:
        """By whoever: a replica before it died, a zombie, another driver."""
        name = data.draw(st.sampled_from(data.draw(st.sampled_from(self.history)).shards))
        self.ended[name] += self.it.done(name)

    @rule(replica=st.sampled_from("abc"))
    def die(self, replica: str) -> None:
        for lease in self.it.leases(replica):
            self.it.charge(lease, "losses", "killed")
            self.it.ended(lease)
        self.it.gone(replica)

    @invariant()
    def every_shard_is_in_one_place(self) -> None:
        waiting = [name for queue in self.it._waiting.values() for name in queue]
        flying = [name for lease in self.it.leases() for name in lease.shards if name not in self.it._done]
        assert Counter([*waiting, *flying, *self.it._done]) == Counter(self.names)
        assert all(count <= 1 for count in self.ended.values())
        assert self.it.left == len(self.names) - sum(self.ended.values())

    @invariant()
    def nobody_has_more_than_two(self) -> None:
        assert all(len(self.it.leases(replica)) <= 2 for replica in "abc")

    def teardown(self) -> None:
        """From wherever that led, a replica that works finishes everything."""
        for replica in "abc":
            self.die(replica)
        while (lease := self.it.next("z")) is not None:
            for name in lease.shards:
                self.ended[name] += self.it.done(name)
            self.it.ended(lease)
        assert self.it.finished
        assert self.ended == Counter(self.names)


Replicas.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestReplicas = Replicas.TestCase


def test_a_lease_is_plain_data() -> None:
    lease = scheduler().next("a")
    assert lease == replace(lease)  # type: ignore[type-var]
