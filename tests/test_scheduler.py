"""Every trial ends exactly once, whatever is lost, late, told twice, poisoned, stuck, or done by somebody else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from sweep.driving.blame import HOPELESS, SUSPECT, Blame, Budgets, Charge, Spent
from sweep.driving.pace import Pace, Timing
from sweep.driving.run import shared
from sweep.driving.scheduler import RunFailed, Scheduler, Shard
from sweep.lease import Lease
from sweep.plan import halves_of


def scheduler(count: int = 6, groups: int = 1, **changes: object) -> Scheduler:
    shards = [Shard(name=f"s-{number}", group=f"g-{number % groups}") for number in range(count)]
    return Scheduler(stage="trials", driver="d", shards=shards, **changes)  # type: ignore[arg-type]


def give(it: Scheduler, *replicas: str, now: float = 0.0) -> list[Lease]:
    return it.give(replicas, now)


def finish(it: Scheduler, lease: Lease, now: float = 0.0) -> None:
    for name in lease.shards:
        it.done(name, now)
    it.ended(lease, now)


def fail(it: Scheduler, lease: Lease, to: Charge = "errors", reason: str = "why", *, evident: bool = True) -> list[str]:
    try:
        return it.charge(lease, to, reason, evident=evident)
    finally:
        it.ended(lease, 0.0)


# -- leases -----------------------------------------------------------------------------------------------------------


def test_two_leases_are_in_flight_at_each_replica_and_they_are_given_in_turn() -> None:
    it = scheduler(5)
    given = give(it, "a", "b")
    assert [lease.replica for lease in given] == ["a", "b", "a", "b"]
    assert [name for lease in given for name in lease.shards] == ["s-0", "s-1", "s-2", "s-3"]
    assert not give(it, "a", "b")
    finish(it, given[0])
    assert [lease.shards for lease in give(it, "a", "b")] == [("s-4",)]


def test_a_replica_keeps_the_model_it_has_loaded_and_moves_on_when_it_has_nothing_left() -> None:
    it = scheduler(count=12, groups=2)
    seen: dict[str, list[str]] = {"a": [], "b": []}
    while not it.finished:
        for lease in give(it, "a", "b"):
            seen[lease.replica].append(lease.group)
            finish(it, lease)
    changes = {name: sum(x != y for x, y in pairwise(groups)) for name, groups in seen.items()}
    assert {groups[0] for groups in seen.values()} == {"g-0", "g-1"}  # two replicas share two models
    assert all(count <= 1 for count in changes.values())


def test_a_lease_is_plain_data() -> None:
    (lease, *_) = give(scheduler(), "a")
    assert lease == replace(lease)


def test_a_lease_grows_to_what_its_replica_does_in_the_time_of_one_and_shrinks_in_the_tail() -> None:
    it = scheduler(2000, pace=Pace(timing=Timing(lease=60)), in_flight=1)
    seconds, now, sizes = {"fast": 1.0, "slow": 20.0}, 0.0, {"fast": list[int](), "slow": list[int]()}
    ends: dict[float, Lease] = {}
    while not it.finished:
        for lease in give(it, "fast", "slow", now=now):
            sizes[lease.replica].append(len(lease.shards))
            ends[now + seconds[lease.replica] * len(lease.shards) + 1e-6 * lease.id] = lease
        now = min(ends)
        finish(it, ends.pop(now), now)
    assert sizes["fast"][:6] == [1, 2, 4, 8, 16, 32]
    assert max(sizes["fast"]) in (59, 60)
    assert max(sizes["slow"]) in (2, 3)
    assert sizes["fast"][-1] == 1
    assert now < 1.05 * 2000 / (1 + 1 / 20)


def test_loading_counts_once_towards_what_a_shard_takes() -> None:
    pace = Pace(timing=Timing(lease=60))
    pace.learn("a", "g", 400.0, 1)
    assert pace.shards("a", "g") == 1
    for _ in range(12):
        pace.learn("a", "g", pace.shards("a", "g") * 2.0, pace.shards("a", "g"))
    assert 20 <= pace.shards("a", "g") <= 30
    assert pace.shards("late", "g") == 1


def test_those_that_join_are_used_at_once_and_those_that_leave_cost_their_leases() -> None:
    it = scheduler(20)
    given = give(it, "a")
    assert {lease.replica for lease in give(it, "a", "b")} == {"b"}
    for lease in given:
        fail(it, lease, "losses")
    it.gone("a")
    assert it.left == 20
    assert [lease.replica for lease in give(it, "b", "c")] == ["c", "c"]


def test_several_drivers_begin_at_their_own_places_and_end_with_everything() -> None:
    shards = [Shard(name=str(number), group="g") for number in range(10)]
    orders = [[shard.name for shard in shared(shards, number, 3)] for number in range(3)]
    assert [order[0] for order in orders] == ["0", "3", "6"]
    assert all(sorted(order, key=int) == [shard.name for shard in shards] for order in orders)
    assert shared(shards, 0, 1) == shards
    with pytest.raises(ValueError, match="no driver 3 of 3"):
        shared(shards, 3, 3)


# -- failures ---------------------------------------------------------------------------------------------------------


def test_only_the_first_that_is_not_done_can_be_to_blame() -> None:
    it = scheduler(100)
    for _ in range(3):
        for lease in give(it, "a"):
            finish(it, lease, now=1e-3)
    lease = next(lease for lease in give(it, "a") if len(lease.shards) > 2)
    it.done(lease.shards[0], 0.0)
    assert it.blamed(lease) == (lease.shards[1],)
    others = [other.shards[0] for other in it.leases("a") if other != lease]
    for each in it.leases("a"):
        fail(it, each, "losses")
    it.gone("a")
    for each in give(it, "b"):
        assert not {*others, lease.shards[1]} & set(each.shards)  # until something lands, what was not tried is
        finish(it, each)
    (alone,) = give(it, "b")  # with nothing beside it
    assert alone.shards[0] in (*others, lease.shards[1])
    assert (len(alone.shards), alone.attempts) == (1, (1,))


def test_what_is_done_in_one_go_is_to_blame_together_and_fails_the_run() -> None:
    it = scheduler(6, per_lease=4, budgets=Budgets(errors=1))
    it.stage = "doses"
    (lease, *_) = give(it, "a")
    assert it.blamed(lease) == lease.shards
    with pytest.raises(RunFailed, match=r"doses: shard s-0 failed 1 times, last: why; see events/") as caught:
        fail(it, lease)
    assert caught.value.shards == lease.shards


def test_a_suspect_goes_to_another_replica_where_there_is_one() -> None:
    it = scheduler(2, in_flight=1)
    a, b = give(it, "a", "b")
    fail(it, a)
    assert not give(it, "a", "b")
    finish(it, b)
    (again,) = give(it, "a", "b")
    assert (again.replica, again.shards) == ("b", a.shards)


@pytest.mark.parametrize(("to", "budget"), [("errors", 3), ("losses", 20)])
def test_each_budget_has_its_own_end_and_a_half_has_one_more_failure(to: Charge, budget: int) -> None:
    it = scheduler(1)
    over = list[str]()
    for at in range(budget):
        assert not over
        (lease,) = give(it, f"r-{at}")
        over = fail(it, lease, to)
    assert over == ["s-0"]
    it.split("s-0", halves_of("s-0"))
    assert it.left == 2
    (lease,) = give(it, "r")
    assert lease.shards == ("s-0.0",)
    assert fail(it, lease, to) == ["s-0.0"]
    assert it.proven("s-0.0") == (to == "errors")
    it.give_up("s-0.0", "poison")
    given = {lease.shards: lease.give_up for _ in range(2) for lease in give(it, "r", "x") if finish(it, lease) is None}
    assert given == {("s-0.0",): "poison", ("s-0.1",): None}
    assert it.finished


def test_a_half_that_is_lost_by_chance_has_the_whole_budget_again() -> None:
    half = Shard(name="s-0.0", group="g", half=True)
    it = Scheduler(stage="trials", driver="d", shards=[half], budgets=Budgets(losses=3))
    for at in range(3):
        (lease,) = give(it, f"r-{at}")
        assert not it.over()
        assert fail(it, lease, "losses", evident=False) == [half.name] * (at == 2)
    assert it.proven(half.name)


def test_what_was_spent_before_counts() -> None:
    it = scheduler(1, spent={"s-0": Spent(leases=5, errors=2)})
    (lease,) = give(it, "a")
    assert lease.attempts == (5,)
    assert fail(it, lease) == ["s-0"]


def test_a_failure_of_a_lease_that_is_over_costs_nothing() -> None:
    it = scheduler(1, budgets=Budgets(errors=1, losses=1))
    (lease,) = give(it, "a")
    finish(it, lease)
    assert fail(it, lease) == []
    assert it.finished


def test_where_nothing_lands_at_any_replica_the_run_fails_before_anything_is_split() -> None:
    it, failures = scheduler(1000), list[Lease]()

    def fail_everywhere() -> None:
        while True:
            for lease in give(it, "a", "b", "c"):
                failures.append(lease)
                assert not fail(it, lease, reason="no such model")

    with pytest.raises(RunFailed, match=r"nothing lands any more: .* last: no such model") as caught:
        fail_everywhere()
    assert HOPELESS <= len(caught.value.shards) <= len(failures) < 3 * HOPELESS


def test_where_every_replica_is_lost_the_run_fails() -> None:
    it = scheduler(1000)

    def lose(replica: str) -> None:
        for lease in give(it, replica):
            assert not fail(it, lease, "losses")
        it.gone(replica)

    for number in range(Budgets().losses):
        lose(f"r-{number}")
    with pytest.raises(RunFailed, match="nothing lands"):
        lose("another")


def test_a_replica_that_fails_at_everything_is_told_from_shards_that_do() -> None:
    it = scheduler(1000)
    while not it.broken("bad"):
        for lease in give(it, "bad", "good"):
            if lease.replica == "good":
                finish(it, lease)
            else:
                assert not fail(it, lease)
    assert sum(spent.errors for spent in it._spent.values()) <= SUSPECT + 1
    assert not it.broken("good")


def test_a_lease_of_which_nothing_lands_is_stalled() -> None:
    it = scheduler(40, pace=Pace(timing=Timing(stalled=300, loading=3600)))
    first = give(it, "a")
    assert not it.stalled(3600)
    assert [lease.replica for lease in it.stalled(3601)] == ["a"]
    for lease in first:
        finish(it, lease, 20.0)
    (lease, _) = give(it, "a", now=20.0)
    assert not it.stalled(320)
    assert it.stalled(321)  # ten times 20 s would be less
    it.pace.learn("b", "g-0", 100.0, 1)
    assert not it.stalled(900)
    assert it.stalled(1100)
    it.done(lease.shards[0], 1000.0)
    assert [other.id for other in it.stalled(1100)] != [lease.id]


def test_what_waits_for_weights_has_not_begun() -> None:
    it = scheduler(40, pace=Pace(timing=Timing(stalled=300, loading=3600)))
    sent, queued = give(it, "a")
    it.unsent([queued.id, 99], 7000.0)
    assert [lease.id for lease in it.stalled(7000)] == [sent.id]
    finish(it, sent, 7000.0)
    it.unsent([queued.id], 7100.0)
    assert not it.stalled(7100 + 300)
    finish(it, queued, 7100.0 + 20)
    assert it.pace.shards("a", "g-0") == 1  # 20 seconds of the second, not 7,120
    assert it.pace._seconds["a", "g-0"] == (7000 + 20) / 2


# -- any world --------------------------------------------------------------------------------------------------------

TRIALS = 8  # of a shard
REPLICAS = ("a", "b", "c")


class World(RuleBasedStateMachine):
    """Replicas join, die, get stuck, answer late and twice; some trials are poison, by error or by taking the machine
    with them; another driver commits and splits the same shards. Time is virtual. A trial ends when its shard's record
    is made, which is exclusive here as it is in a store."""

    broken: Callable[[Scheduler], None] | None = None  # what a mutation does to the scheduler

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.history: list[Lease] = []
        self.alive = {name: f"{name}-0" for name in REPLICAS}
        self.going: set[str] = set()
        self.record: dict[str, str] = {}  # shard -> rows, error, split: the commit records
        self.told: Counter[str] = Counter()
        self.evidence: Counter[str] = Counter()  # failures that speak against a shard
        self.chances: Counter[str] = Counter()  # and those that do not

    @initialize(
        count=st.integers(0, 9),
        groups=st.integers(1, 3),
        poison=st.dictionaries(st.integers(0, 71), st.sampled_from(["errors", "losses"]), max_size=2),
        drivers=st.integers(1, 2),
    )
    def begin(self, count: int, groups: int, poison: dict[int, Charge], drivers: int) -> None:
        self.count = count
        self.poison: dict[tuple[str, int], Charge] = {
            (f"s-{trial // TRIALS}", trial % TRIALS): to for trial, to in poison.items()
        }
        pace = Pace(timing=Timing(lease=60, stalled=300, loading=600))
        self.it = scheduler(count, groups, budgets=Budgets(errors=2, losses=3), pace=pace, drivers=drivers)
        if World.broken:
            World.broken(self.it)

    # what is in a shard, and what that does

    def trials(self, name: str) -> list[tuple[str, int]]:
        whole, *path = name.split(".")
        inside = list(range(TRIALS))
        for half in path:
            middle = (len(inside) + 1) // 2
            inside = inside[:middle] if half == "0" else inside[middle:]
        return [(whole, trial) for trial in inside]

    def harm(self, name: str) -> Charge | None:
        return next((self.poison[trial] for trial in self.trials(name) if trial in self.poison), None)

    def commit(self, name: str, how: str) -> None:
        self.record.setdefault(name, how)

    def land(self, name: str) -> None:
        """As the driver hears of it: from the record."""
        if name in self.it and self.record[name] == "split":
            self.it.split(name, halves_of(name))
        elif name in self.record:
            self.told[name] += self.it.done(name, self.now)

    # rules

    @rule(seconds=st.sampled_from([0.1, 5.0, 100.0, 1000.0]))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        for lease in self.it.stalled(self.now):
            self.lose(lease.replica, evident=True)

    @rule()
    def lease(self) -> None:
        active = [name for name in self.alive.values() if name not in self.going]
        for lease in self.it.give(active, self.now):
            assert lease.replica in active
            assert not any(name in self.record and name not in self.it for name in lease.shards)
            self.history.append(lease)

    @rule(data=st.data(), upto=st.integers(0, 3))
    @precondition(lambda self: self.history)
    def work(self, data: st.DataObject, upto: int) -> None:
        """Any lease ever given, also of one that is long given up: its replica commits some, and does not say so."""
        lease = data.draw(st.sampled_from(self.history))
        for name in lease.shards[:upto]:
            if self.harm(name) and not lease.give_up:
                return
            self.commit(name, "error" if lease.give_up else "rows")

    @rule(data=st.data())
    @precondition(lambda self: self.history)
    def answer(self, data: st.DataObject) -> None:
        """In flight, lost meanwhile, or answered before."""
        self.settle(data.draw(st.sampled_from(self.history)))

    def settle(self, lease: Lease) -> None:
        for name in lease.shards:
            harm = None if lease.give_up or name in self.record else self.harm(name)
            if harm == "errors":
                self.fail(lease, "errors")
                return
            if harm == "losses":
                self.lose(lease.replica, evident=True)
                return
            self.commit(name, "error" if lease.give_up else "rows")
        for name in lease.shards:
            self.land(name)
        self.it.ended(lease, self.now)

    def fail(self, lease: Lease, to: Charge, *, evident: bool = True) -> None:
        while (blamed := self.it.blamed(lease)) and (late := [name for name in blamed if name in self.record]):
            for name in late:
                self.land(name)
        assert len(blamed) <= 1
        self.evidence.update(blamed if evident else ())
        self.chances.update(() if evident else blamed)
        try:
            over = self.it.charge(lease, to, "why", evident=evident)
        except RunFailed:  # the command is given again, and its driver knows of no failures in a row
            over, self.it._blame = [], Blame(budgets=self.it.budgets)
        self.it.ended(lease, self.now)
        for name in over:
            if len(self.trials(name)) == 1:
                if self.it.proven(name):
                    self.it.give_up(name, "why")
            else:
                self.commit(name, "split")
                self.land(name)

    @rule(data=st.data())
    def die(self, data: st.DataObject) -> None:
        self.lose(data.draw(st.sampled_from(sorted(self.alive.values()))), evident=False)

    def lose(self, replica: str, *, evident: bool) -> None:
        for lease in self.it.leases(replica):
            self.fail(lease, "losses", evident=evident)
        self.it.gone(replica)
        for slot, name in self.alive.items():
            if name == replica:
                self.alive[slot] = f"{slot}-{int(name[2:]) + 1}"

    @rule(data=st.data())
    def announce(self, data: st.DataObject) -> None:
        """A machine is about to go, or is not after all."""
        self.going ^= {data.draw(st.sampled_from(sorted(self.alive.values())))}

    @rule(data=st.data(), how=st.sampled_from(["rows", "split"]))
    @precondition(lambda self: self.it._waiting._group)
    def another_driver(self, data: st.DataObject, how: str) -> None:
        name = data.draw(st.sampled_from(sorted(self.it._waiting._group)))
        if how == "rows" and not self.harm(name):
            self.commit(name, "rows")
        elif how == "split" and len(self.trials(name)) > 1:
            self.commit(name, "split")

    @rule()
    def look(self) -> None:
        for name in list(self.record):
            self.land(name)

    # what always holds

    @invariant()
    def every_shard_is_in_one_place(self) -> None:
        if not hasattr(self, "it"):
            return
        waiting = self.it._waiting
        queued = [n for q in (*waiting._ordinary.values(), *waiting._suspects.values()) for n in q if n in waiting]
        flying = [name for lease in self.it.leases() for name in lease.shards if name in waiting]
        assert Counter([*queued, *flying]) == Counter(dict.fromkeys(waiting._group, 1))
        assert waiting.count.total() == len(queued)
        assert all(count <= 1 for count in self.told.values())

    @invariant()
    def a_replica_has_two_leases_or_a_suspect_alone(self) -> None:
        if not hasattr(self, "it"):
            return
        for replica in {lease.replica for lease in self.it.leases()}:
            leases = self.it.leases(replica)
            assert len(leases) <= 2
            assert len(leases) == 1 or not any(self.it._is_suspect(lease.shards[0]) for lease in leases)

    def teardown(self) -> None:
        """From wherever that led, what is alive finishes everything, and every trial ended once."""
        if not hasattr(self, "it"):
            return
        self.going.clear()
        for turn in range(2000):
            if self.it.finished:
                break
            self.lease()
            assert self.it.leases(), "it gives nothing out, and is not done"
            self.settle(self.it.leases()[turn % len(self.it.leases())])
        assert self.it.finished
        ended = Counter(
            (trial, how) for name, how in self.record.items() if how != "split" for trial in self.trials(name)
        )
        assert Counter(trial for trial, _ in ended.elements()) == Counter(
            (f"s-{shard}", trial) for shard in range(self.count) for trial in range(TRIALS)
        )
        poisoned = {trial for trial in self.poison if int(trial[0][2:]) < self.count}
        assert poisoned <= {trial for trial, how in ended if how == "error"}
        for name in (name for name, how in self.record.items() if how == "error"):
            chances = self.it.budgets.losses - self.evidence[name]
            assert set(self.trials(name)) <= poisoned or self.evidence[name] > 1 or self.chances[name] >= chances


World.TestCase.settings = settings(max_examples=120, stateful_step_count=60, deadline=None)
TestWorld = World.TestCase


def _forgets(it: Scheduler) -> None:
    """A lease that ends takes what it left undone with it."""
    it._waiting.back = lambda *_, **__: None  # type: ignore[method-assign]


def _doubles(it: Scheduler) -> None:
    """What was done is told as new again."""
    it.done = lambda *_: True  # type: ignore[method-assign]


def _halves(it: Scheduler) -> None:
    """Of a split shard one half is forgotten."""
    split = it.split
    it.split = lambda name, halves: split(name, list(halves)[:1])  # type: ignore[method-assign]


@pytest.mark.parametrize("mutation", [_forgets, _doubles, _halves])
def test_a_broken_scheduler_is_caught(mutation: Callable[[Scheduler], None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(World, "broken", mutation)
    few = settings(World.TestCase.settings, print_blob=False, database=None, phases=[Phase.generate])
    with pytest.raises((AssertionError, KeyError)):
        run_state_machine_as_test(World, settings=few)
