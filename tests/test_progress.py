"""What a person sees of a run while it goes on, on a clock that the tests turn."""

from __future__ import annotations

import io
import logging
import math
import random
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from sweep.driving.cost import HOUR, Account, Bill, Price
from sweep.driving.pace import Pace
from sweep.driving.progress import EVERY, Progress
from sweep.driving.replicas import GONE, LINES, Replicas
from sweep.driving.speed import Speed, clock, eta
from sweep.driving.updates import Kind, Landed, Seat, Standing, Started, Trouble
from sweep.lease import Finished

FREE = Bill(hours=0.0, elsewhere=0.0, gpus=False, price=None)


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def seat(number: int, **changes: Any) -> Seat:
    return replace(Seat(replica=f"replica-{number}", model="pocket", shards=2, draining=False), **changes)


def standing(*seats: Seat, coming: int = 0, bill: Bill = FREE) -> Standing:
    return Standing(seats=seats, coming=coming, bill=bill)


def landed(number: int = 0, seconds: float = 10.0, ok: int = 20, true: int = 5) -> Landed:
    cell = {"model": "pocket", "protocol": "injected_thought", "arm": "concept"}
    counts = [{**cell, "planned": ok, "ok": ok, "error": 0, "skipped": 0}]
    record = {"rows": ok, "tokens": 100, "counts": counts, "began": 50.0, "ended": 50.0 + seconds}
    grades = {"verdicts": [{**cell, "measure": "detected", "true": true, "false": ok - true, "null": 0}]}
    return Landed(
        stage="trials", shard=Finished(name="b-000000", record=record, grades=grades), replica=f"replica-{number}"
    )


def trouble(number: int = 0, kind: Kind = "lost", reason: str = "ActorDiedError: the\nnode is gone") -> Trouble:
    return Trouble(kind=kind, stage="trials", replica=f"replica-{number}", shards=("b-000000",), reason=reason)


class Screen:
    """A Progress, and what it wrote."""

    def __init__(self, *, terminal: bool, width: int = 80, log: Path | None = None) -> None:
        self.clock, self._file = Clock(), io.StringIO()
        self.console = Console(file=self._file, force_terminal=terminal, width=width, color_system=None)
        self.progress = Progress(self.console, log, self.clock)

    @property
    def text(self) -> str:
        return self._file.getvalue()

    def view(self) -> list[str]:
        with self.console.capture() as found:
            self.console.print(self.progress.render())
        return [line.rstrip() for line in found.get().splitlines()]


# -- speed and time left ----------------------------------------------------------------------------------------------


def test_speed_is_that_of_the_last_minute() -> None:
    speed = Speed(0.0)
    assert speed.at(5.0) is None
    for second in range(10, 400, 10):
        speed.landed(float(second), 20 if second <= 200 else 40, 100)
    assert speed.at(390.0) == (4.0, 10.0)
    speed.landed(10_000.0, 40, 100)  # nothing for hours, and then one: as slow as that
    assert speed.at(10_000.0) == (40 / (10_000 - 390), 100 / (10_000 - 390))


def test_the_time_before_a_first_shard_landed_does_not_count_for_ever() -> None:
    speed = Speed(0.0)
    for second in (600.0, 605.0, 610.0):  # ten minutes of loading
        speed.landed(second, 20, 0)
    assert speed.at(610.0) == (1.0, 0.0)


def test_what_a_speed_remembers_does_not_grow() -> None:
    speed = Speed(0.0)
    for second in range(10_000):
        speed.landed(float(second), 1, 1, seconds=1.0)
    assert len(vars(speed)["_landed"]) < 70
    assert len(speed.times) == 200


def test_shards_that_take_the_same_time_leave_no_spread_and_few_say_nothing_of_it() -> None:
    assert eta(100, 10.0, 5, [7.0] * 20, 20) == eta(100, 10.0, 50, [7.0] * 20, 20)
    found = eta(100, 10.0, 5, [7.0] * 20, 20)
    assert found is not None
    assert str(found) == "0:00:10 ± 0:00:00"
    few = eta(100, 10.0, 5, [7.0, 9.0], 2)
    assert few is not None
    assert (few.spread, str(few)) == (None, "0:00:10")
    assert eta(100, 0.0, 5, [7.0] * 20, 20) is None
    assert clock(4800) == "1:20:00"


def test_the_spread_is_that_of_many_runs() -> None:
    """Shards of lognormal times, one after the other: the error of the estimate over the whole is what ± said."""
    draw, errors, said = random.Random(0), list[float](), list[float]()
    for _ in range(2000):
        before = [draw.lognormvariate(0.0, 0.5) for _ in range(40)]
        after = sum(draw.lognormvariate(0.0, 0.5) for _ in range(60))
        found = eta(60, 1 / statistics.fmean(before), 60, before, len(before))
        assert found is not None
        assert found.spread is not None
        errors.append(found.seconds - after)
        said.append(found.spread)
    assert math.isclose(statistics.stdev(errors), statistics.fmean(said), rel_tol=0.1)


# -- replicas ---------------------------------------------------------------------------------------------------------


def states(replicas: Replicas, now: float = 0.0) -> dict[str, list[str]]:
    table = replicas.table(now)
    assert table is not None
    columns = [list(column.cells) for column in table.columns]
    return {str(name): [str(cell) for cell in rest] for name, *rest in zip(*columns, strict=True)}


def test_a_replica_goes_through_its_states() -> None:
    replicas = Replicas()
    seats = [seat(n) for n in range(5)]
    replicas.stand(standing(*seats), 0.0)
    assert {row[0] for row in states(replicas).values()} == {"loading"}
    replicas.landed("replica-0", 10.0, 20, 100)
    replicas.trouble(trouble(2, "stalled"))
    replicas.trouble(trouble(3, "lost"))
    replicas.trouble(trouble(4, "error"))
    replicas.stand(standing(seats[0], seat(1, shards=0, model=None), seat(4, draining=True), coming=2), 10.0)
    found = states(replicas, 10.0)
    assert {name: row[0] for name, row in found.items()} == {
        "replica-0": "working",
        "replica-1": "idle",
        "replica-2": "stalled",
        "replica-3": "lost",
        "replica-4": "draining",
    }
    assert found["replica-0"] == ["working", "pocket", "2.0", "2", "0"]
    assert (found["replica-1"][1], found["replica-4"][-1], found["replica-3"][-2:]) == ("pocket", "1", ["0", "1"])
    assert replicas.line() == "3 replicas: 1 working, 1 idle, 1 draining, 2 coming"
    other = seat(0, model="next")  # what a replica has to load next
    replicas.stand(standing(other), 11.0)
    assert states(replicas, 11.0)["replica-0"][:2] == ["loading", "next"]


def test_what_is_gone_is_shown_for_a_while_and_what_left_quietly_is_told_once() -> None:
    replicas = Replicas()
    replicas.stand(standing(seat(0), seat(1), seat(2)), 0.0)
    replicas.trouble(trouble(1))
    assert replicas.stand(standing(seat(0)), 1.0) == ["replica-2"]
    assert states(replicas).keys() == {"replica-0", "replica-1"}
    assert replicas.stand(standing(seat(0)), GONE) == []
    assert states(replicas).keys() == {"replica-0", "replica-1"}
    replicas.stand(standing(seat(0)), GONE + 2)
    assert replicas.table(0.0) is None


def test_many_replicas_are_a_line_for_each_state() -> None:
    replicas = Replicas()
    seats = [seat(n, shards=n % 2 * 3) for n in range(LINES + 1)]
    replicas.stand(standing(*seats), 0.0)
    for n in range(LINES + 1):
        replicas.landed(f"replica-{n}", 10.0, 20, 0)
    found = states(replicas, 10.0)
    assert found == {
        "6 replicas": ["working", "pocket", "12.0", "18", "0"],
        "7 replicas": ["idle", "–", "14.0", "0", "0"],
    }


# -- the view ---------------------------------------------------------------------------------------------------------


def busy(screen: Screen, seconds: int = 100) -> None:
    price = Price(hour=2.5, budget=100.0)
    bill = Bill(hours=4.0, elsewhere=0.96, gpus=True, price=price)
    screen.progress(Started(stage="trials", left=500, total=500, trials=10_000))
    for second in range(10, seconds + 1, 10):
        screen.clock.now += 10.0
        screen.progress(standing(seat(0), seat(1, model="another-model-with-a-very-long-name"), bill=bill))
        screen.progress(landed(second // 10 % 2, seconds=10.0 + second % 30))


@pytest.mark.parametrize("width", [60, 80, 200])
def test_the_view_fits_a_terminal(width: int) -> None:
    screen = Screen(terminal=True, width=width)
    with screen.progress:
        busy(screen)
        screen.progress(trouble(1))
    view = screen.view()
    assert all(len(line) <= width for line in view)
    text = "\n".join(view)
    assert "200/10,000 trials" in text
    assert "2.0 trials/s  10 tokens/s  ETA 1:21:40 ± 0:" in text
    assert "cost 12.40 of 100.00 (4.96 GPU-hours)" in text
    assert "rates so far" in text
    assert "25.0%" in text
    assert "±" not in text[text.index("rates so far") :]
    assert [line.split()[:2] for line in view if line.startswith("replica-")] == [
        ["replica-0", "working"],
        ["replica-1", "lost"],
    ]


def test_without_a_terminal_there_is_a_line_now_and_then() -> None:
    screen = Screen(terminal=False)
    with screen.progress:
        busy(screen)
    lines = screen.text.splitlines()
    assert len(lines) == 100 / EVERY + 1
    assert lines[-1].startswith("200/10,000 trials  2.0 trials/s  10 tokens/s  ETA 1:21:40 ± 0:")
    assert lines[-1].endswith("2 replicas: 2 working  cost 12.40 of 100.00 (4.96 GPU-hours)")
    assert "\x1b" not in screen.text


def test_every_loss_is_a_line_that_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_TOKEN", "hunter2hunter2")
    screen = Screen(terminal=False, log=tmp_path / "log")
    long = "word " * 100
    with screen.progress:
        busy(screen, 10)
        for _ in range(2):  # its two leases
            screen.progress(trouble(1))
        screen.progress(trouble(0, "error", f"ValueError: {long}"))
        screen.progress(standing())
        logging.getLogger("sweep.cluster").warning("%s did not start: hunter2hunter2", "replica-2")
    logging.getLogger("sweep.cluster").warning("not ours any more")
    said = [line for line in screen.text.splitlines() if "trials" not in line]
    assert said == [
        "lost: replica-1, b-000000: ActorDiedError: the node is gone",
        "lost: replica-1, b-000000: with its replica",
        said[2],
        "gone: replica-0, with nothing in flight: its machine was announced to go",
        said[4],
    ]
    assert (len(said[2]) < 160, said[2][-1]) == (True, "…")
    logged = [line.partition(" ")[2] for line in (tmp_path / "log").read_text().splitlines()]
    assert logged[:2] == ["lost: replica-1, b-000000: ActorDiedError: the node is gone"] * 2
    assert logged[2] == f"error: replica-0, b-000000: ValueError: {long.strip()}"
    assert logged[-1].startswith("replica-2 did not start: ")
    assert "hunter2" not in screen.text + "".join(logged)
    assert "1 lost" in screen.progress.line()


# -- cost -------------------------------------------------------------------------------------------------------------


def account(budget: float | None = None, elsewhere: float = 0.0, hour: float = 2.0) -> Account:
    return Account(Price(hour=hour, budget=budget), lambda: elsewhere)


def test_replicas_cost_while_they_are_held() -> None:
    """Also while they start: what is held is told apart from how many take leases."""
    found = account()
    for hours, replicas in ((0.0, 0), (2.0, 2), (1.0, 0), (0.0, 0)):
        found.look(100.0, hours * HOUR, replicas, gpus=2.0)
    bill = found.bill()
    assert (bill.hours, bill.gpus, bill.cost) == (6.0, True, 12.0)
    assert bill.line == "cost 12.00 (6.00 GPU-hours)"


def test_without_gpus_hours_are_replicas_and_without_a_price_they_are_told_of_gpus_only() -> None:
    found = account()
    found.look(HOUR, 3 * HOUR, 3, gpus=0.0)
    assert (found.bill().hours, found.bill().gpus) == (3.0, False)
    free = replace(found.bill(), price=None)
    assert (free.cost, free.line) == (None, None)
    assert replace(free, gpus=True).line == "3.00 GPU-hours"


def test_a_budget_holds_for_what_is_in_flight_and_for_other_drivers() -> None:
    assert account().exceeded(1e9) is None
    found = account(budget=10.0, elsewhere=1.0)
    found.look(0.0, 0.0, 4, gpus=1.0)
    assert found.exceeded(HOUR) is None  # 2 elsewhere, and 8 for what is ahead: just the budget
    why = found.exceeded(HOUR + 10)
    assert why is not None
    assert why.startswith("the budget of 10.00 is spent: 2.00 for 1.00 GPU-hours, and a further lease would cost")
    assert found.exceeded(None) is None
    found.look(HOUR + 1, 4 * (HOUR + 1), 4, gpus=1.0)
    assert found.exceeded(None) is not None


def test_others_are_asked_again_only_where_there_is_a_budget() -> None:
    for budget, expected in ((None, 1), (5.0, 3)):
        asked = list[float]()
        found = Account(Price(hour=1.0, budget=budget), lambda asked=asked: float(len(asked.append(0.0) or asked)))
        for now in (0.0, 30.0, 61.0, 130.0):
            found.look(now, 0.0, 1, gpus=0.0)
        assert (len(asked), found.bill().elsewhere) == (expected, expected)


def test_what_a_further_lease_takes_is_known_once_one_ended() -> None:
    pace = Pace()
    assert pace.longest({"a", "b"}) is None
    pace.learn("a", "g", 10.0, 1)
    pace.learn("b", "g", 25.0, 1)
    assert pace.longest({"a"}) == 20.0  # twice as many as before
    assert pace.longest({"a", "b"}) == 50.0
    assert pace.longest({"c"}) is None
