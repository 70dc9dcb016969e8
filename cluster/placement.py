"""Where replicas lie: what one takes, how many there is room for, what is missing, and the group that holds a place."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray
import ray._private.state as ray_state  # what a machine has free, and which are to go, Ray says nowhere else
from ray.util.placement_group import PlacementGroup, placement_group, placement_group_table, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from sweep.block import Block
from sweep.driving.pool import NoRoom
from sweep.serving import ServingFor

SHOWN = 8  # machines that a message lists
GRAIN = 10_000  # Ray counts resources in ten-thousandths


@dataclass(frozen=True, kw_only=True)
class Machine:
    """A node of the cluster: what it has, and what of that nobody holds."""

    address: str
    gpus: float = 0.0
    cpus: float = 0.0
    free_gpus: float = 0.0
    free_cpus: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Need:
    """What one replica takes: `ranks` processes, each with so much of one machine. GPUs below 1: several share one."""

    gpus: float = 0.0
    cpus: float = 1.0
    ranks: int = 1

    @property
    def resources(self) -> dict[str, float]:
        """Of one rank, as Ray names them."""
        return {"CPU": self.cpus, **({"GPU": self.gpus} if self.gpus else {})}

    def __str__(self) -> str:
        each = " and ".join(f"{amount:g} {name}{'' if amount == 1 else 's'}" for name, amount in self._amounts())
        return f"{each} of one machine" + (f", {self.ranks} times" if self.ranks > 1 else "")

    def _amounts(self) -> Iterable[tuple[str, float]]:
        return ((name, amount) for name, amount in (("GPU", self.gpus), ("CPU", self.cpus)) if amount)


def room(machines: Iterable[Machine], need: Need) -> int:
    """How many replicas the machines hold, were they all ours."""
    return sum(_parts(machine.gpus, machine.cpus, need) for machine in machines) // need.ranks


def room_now(machines: Iterable[Machine], need: Need) -> int:
    """The same of what nobody holds."""
    return sum(_parts(machine.free_gpus, machine.free_cpus, need) for machine in machines) // need.ranks


def _parts(gpus: float, cpus: float, need: Need) -> int:
    found = ((gpus, need.gpus), (cpus, need.cpus))
    return min(math.floor(there / wanted + 1 / GRAIN) for there, wanted in found if wanted)


def share(
    machines: Sequence[Machine],
    replicas: int | None,
    *,
    each: int = 1,
    ranks: int = 1,
    packed: int | None = None,
    fixed: bool = False,
) -> Need:
    """What each replica takes, where `each` GPUs (cores, where there are none) are what the largest model needs.

    A model that needs one GPU gets several where there are more than replicas, and a part of one where there are fewer,
    down to a `packed`-th (None: as many as share it). `fixed`: no further machine can come. Raises NoRoom, naming what
    is missing, where not one replica has room, or fewer than asked and nothing can come.
    """
    gpus = [int(machine.gpus) for machine in machines if machine.gpus >= 1]
    if not gpus:
        need = Need(cpus=each, ranks=ranks)
    elif each > 1:
        need = Need(gpus=each, cpus=each, ranks=ranks)
    else:
        need = Need(gpus=_gpus_each(gpus, (replicas or sum(gpus)) * ranks, packed), ranks=ranks)
    count = room(machines, need)
    if not count:
        raise NoRoom(f"a replica needs {need}, and there is {listed(machines)}: {_remedy(need)}")
    if fixed and (replicas or 0) > count:
        raise NoRoom(f"a replica needs {need}, and there is room for {count}, not for {replicas}: --replicas {count}")
    return need


def _gpus_each(gpus: Sequence[int], count: int, packed: int | None) -> float:
    """Whole ones where there are enough, so that a large model has several; else an equal share of one."""
    if count <= sum(gpus):
        return next(size for size in range(max(gpus), 0, -1) if sum(found // size for found in gpus) >= count)
    sharing = -(-count // sum(gpus))
    return math.floor(GRAIN / min(sharing, packed or sharing)) / GRAIN


def packed(blocks: Sequence[Block], serving: ServingFor, *, fixed: bool) -> int | None:
    """How many replicas may lie on one GPU: as many as --serve memory= leaves room for. Where nothing is said of it,
    on a cluster one, as further machines may come, and on a machine of one's own (`fixed`) as many as asked: None."""
    of_vllm = [serving.of(block.model.name).memory for block in blocks if block.model.engine == "vllm"]
    said = [memory for memory in of_vllm if memory is not None]
    whole = len(said) < len(of_vllm) or any(block.model.engine == "transformers" for block in blocks)
    if not fixed and (whole or not said):
        return 1
    return math.floor(1 / max(said)) if said else None


def ranks_each(blocks: Sequence[Block], serving: ServingFor) -> int:
    """Processes that a replica consists of. vLLM's own stay on the leader's machine, so only a fake has several."""
    found = (serving.of(block.model.name).pipeline_parallel for block in blocks if block.model.engine == "fake")
    return max(found, default=1)


def listed(machines: Sequence[Machine]) -> str:
    """What each machine has, and what of it is free."""
    lines = [f"{machine.address}: {_has(machine)}" for machine in machines[:SHOWN]]
    more = len(machines) - SHOWN
    return "; ".join((*lines, *([f"and {more} more"] if more > 0 else []))) or "no machine"


def _has(machine: Machine) -> str:
    gpus = f"{machine.free_gpus:g} of {machine.gpus:g} GPUs and " if machine.gpus else "no GPU, "
    return f"{gpus}{machine.free_cpus:g} of {machine.cpus:g} CPUs free"


def _remedy(need: Need) -> str:
    if need.gpus > 1 or (not need.gpus and need.cpus > 1):
        return "lower it with --serve tensor_parallel=N or --serve pipeline_parallel=N"
    return "lower it with --serve pipeline_parallel=N" if need.ranks > 1 else "see `ray status` for who holds them"


# -- Ray's side -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Survey:
    """The cluster at one moment: machines by node id, which of them were announced to go, and where groups lie."""

    machines: Mapping[str, Machine]
    draining: Collection[str]
    placed: Mapping[str, tuple[str, ...]]  # by the name it was asked under: a node for each rank

    @property
    def staying(self) -> list[Machine]:
        return [machine for node, machine in self.machines.items() if node not in self.draining]


def survey(groups: Mapping[str, PlacementGroup]) -> Survey:
    """Blocks while the cluster's head cannot be reached: call it in a thread."""
    free = ray_state.available_resources_per_node()
    alive = {node["NodeID"]: node for node in ray.nodes() if node["Alive"]}
    return Survey(
        machines={name: _machine(node, free.get(name, {})) for name, node in alive.items()},
        draining=frozenset(ray_state.state.get_draining_nodes()),
        placed={name: nodes for name, group in groups.items() if (nodes := _nodes(group)) is not None},
    )


def _machine(node: Mapping[str, Any], free: Mapping[str, float]) -> Machine:
    has = node["Resources"]
    return Machine(
        address=f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})",
        gpus=has.get("GPU", 0.0),
        cpus=has.get("CPU", 0.0),
        free_gpus=free.get("GPU", 0.0),
        free_cpus=free.get("CPU", 0.0),
    )


def reserve(need: Need) -> PlacementGroup:
    """A place for one replica, which Ray gives when there is one. A rank is never split over machines, and the ranks
    of a replica lie close."""
    return placement_group([need.resources] * need.ranks, strategy="PACK")


def release(group: PlacementGroup) -> None:
    """The place, and whoever is in it: Ray kills even a process that is stopped."""
    remove_placement_group(group)


def _nodes(group: PlacementGroup) -> tuple[str, ...] | None:
    table = placement_group_table(group)
    if table.get("state") != "CREATED":
        return None
    return tuple(node for _, node in sorted(table["bundles_to_node_id"].items()))


def seat(group: PlacementGroup, need: Need, rank: int) -> dict[str, Any]:
    """Actor options of one rank."""
    strategy = PlacementGroupSchedulingStrategy(placement_group=group, placement_group_bundle_index=rank)
    return {"num_cpus": need.cpus, "num_gpus": need.gpus, "scheduling_strategy": strategy}
