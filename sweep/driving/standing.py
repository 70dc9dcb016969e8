"""How a driver's replicas stand, as its view and its signs of life tell it."""

from __future__ import annotations

from collections.abc import Mapping

from sweep.driving.cost import Bill
from sweep.driving.events import Sign
from sweep.driving.pool import Pool
from sweep.driving.scheduler import Scheduler
from sweep.driving.updates import Seat, Standing


def standing(pool: Pool, scheduler: Scheduler, models: Mapping[str, str], bill: Bill) -> Standing:
    """`models`: names, by what a lease's group says."""
    going = pool.draining
    seats = tuple(_seat(scheduler, models, name, name in going) for name in pool.replicas)
    return Standing(seats=seats, coming=pool.coming, bill=bill)


def _seat(scheduler: Scheduler, models: Mapping[str, str], replica: str, draining: bool) -> Seat:
    leases = scheduler.leases(replica)
    undone = sum(name in scheduler for lease in leases for name in lease.shards)
    model = models.get(leases[-1].group) if leases else None
    return Seat(replica=replica, model=model, shards=undone, draining=draining)


def sign(scheduler: Scheduler, replicas: int, bill: Bill, *, losses: int, failures: int) -> Sign:
    return Sign(
        stage=scheduler.stage,
        replicas=replicas,
        losses=losses,
        failures=failures,
        hours=bill.hours,
        gpus=bill.gpus,
        price=bill.price and bill.price.hour,
    )
