"""What replicas export, that it is true and says nothing of a trial, and that the dashboard asks for what there is."""

from __future__ import annotations

import asyncio
import json
import re
import urllib.request
from collections import Counter, defaultdict
from collections.abc import Generator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import ray
import yaml

from cluster import metrics
from cluster.metrics import BY, EXPORTED, Meter, Metered
from sweep.engine import Call, Engine, Reply
from sweep.fakes.engine import FakeEngine
from sweep.lease import Done, Finished
from sweep.store import Store
from sweep.trial import Message, Template
from tests.raylets import Raylets
from tests.test_pool import opened, study, until, work
from tests.toys import MODEL, direction

INFRA = Path(__file__).parent.parent / "infra"
NAMED = re.compile(r"ray_sweep_[a-z_]+")


def exported() -> set[str]:
    """As Prometheus sees them."""
    counters = {f"ray_{each.info['name']}_total" for each in EXPORTED if each is not metrics.IN_FLIGHT}
    return counters | {f"ray_{metrics.IN_FLIGHT.info['name']}"}


def test_the_dashboard_shows_what_is_exported_and_nothing_else() -> None:
    dashboard = json.loads((INFRA / "grafana" / "sweep.json").read_text())
    asked = {name for panel in dashboard["panels"] for each in panel["targets"] for name in NAMED.findall(each["expr"])}
    assert asked == exported()
    assert {panel["type"] for panel in dashboard["panels"]} == {"timeseries"}
    places = [tuple(panel["gridPos"][key] for key in "xy") for panel in dashboard["panels"]]
    assert len(set(places)) == len(places) == len({panel["id"] for panel in dashboard["panels"]})
    assert set(NAMED.findall(json.dumps(dashboard["templating"]))) <= exported()


def test_the_rules_ask_for_what_is_exported() -> None:
    config = yaml.safe_load((INFRA / "prometheus.yml").read_text())
    (rules,) = config["rule_files"]
    groups = yaml.safe_load((INFRA / rules).read_text())["groups"]
    asked = {name for group in groups for rule in group["rules"] for name in NAMED.findall(rule["expr"])}
    assert asked
    assert asked <= exported()


def test_tags_are_models_and_replicas_only() -> None:
    """One of trials or concepts would make a series each."""
    assert {tag for each in EXPORTED for tag in each.info["tag_keys"]} == set(BY)


class Kept:
    """A counter or gauge that can be read."""

    def __init__(self) -> None:
        self.value: defaultdict[tuple[str, ...], float] = defaultdict(float)

    def inc(self, amount: float, tags: Mapping[str, str]) -> None:
        assert amount > 0
        self.value[tuple(tags.values())] += amount

    def set(self, value: float, tags: Mapping[str, str]) -> None:
        self.value[tuple(tags.values())] = value


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> dict[str, Kept]:
    names = ("TRIALS", "TOKENS", "PROMPT_TOKENS", "CACHED_TOKENS", "IN_FLIGHT", "BUSY")
    found = {name: Kept() for name in names}
    for name, each in found.items():
        monkeypatch.setattr(metrics, name, each)
    return found


class Cached(FakeEngine):
    """A fake that knows what its prefix cache gave."""

    def submit(self, call: Call) -> asyncio.Future[Reply]:
        future, inner = asyncio.get_running_loop().create_future(), super().submit(call)
        inner.add_done_callback(lambda done: future.set_result(replace(done.result(), cached_tokens=2)))
        return future


@pytest.mark.parametrize("kind", [FakeEngine, Cached])
async def test_an_engine_answers_the_same_whether_it_is_watched_or_not(
    kind: type[FakeEngine], kept: dict[str, Kept]
) -> None:
    watched = Meter("replica-3").engine(kind(MODEL, direction), MODEL)
    replies = await ask(watched)
    assert replies == await ask(kind(MODEL, direction))
    watched.close()
    tags = ("toy", "replica-3")
    assert kept["TOKENS"].value == {tags: sum(len(reply.token_ids) for reply in replies)}
    known = sum(reply.prompt_tokens for reply in replies) if kind is Cached else None
    assert kept["PROMPT_TOKENS"].value.get(tags) == known
    assert kept["CACHED_TOKENS"].value.get(tags) == (2 * len(replies) if known else None)
    assert kept["IN_FLIGHT"].value == {tags: 0}
    assert 0 < kept["BUSY"].value[tags] < 5


async def ask(engine: Engine) -> list[Reply]:
    message = Message(role="user", text="Do you detect an injected thought?")
    calls = [Call(trial=str(n), messages=(message,), template=Template(), seed=n) for n in range(5)]
    futures = [engine.submit(call) for call in calls]
    while not all(future.done() for future in futures):
        engine.step()
        await asyncio.sleep(0)
    return [future.result() for future in futures]


async def test_an_idle_engine_is_not_busy(kept: dict[str, Kept]) -> None:
    watched = Metered(FakeEngine(MODEL, direction), {"model": "toy", "replica": "r"})
    await asyncio.sleep(0.2)
    await ask(watched)
    await asyncio.sleep(0.2)
    watched.close()
    assert kept["BUSY"].value["toy", "r"] < 0.2


def test_trials_are_counted_by_what_was_committed(kept: dict[str, Kept]) -> None:
    record = {"counts": [{"model": "a", "planned": 3}, {"model": "a", "planned": 2}, {"model": "b", "planned": 1}]}
    shards = (Finished(name="1", record=record), Finished(name="2"))  # the second was somebody else's
    Meter("r").landed(Done(lease=1, replica="r", shards=shards))
    assert kept["TRIALS"].value == {("a", "r"): 5, ("b", "r"): 1}


# -- through Ray ------------------------------------------------------------------------------------------------------


@pytest.fixture
def cluster() -> Generator[Raylets]:
    found = Raylets()
    found.add(cpus=1)
    yield found
    found.close()


async def test_a_run_on_ray_can_be_scraped(cluster: Raylets, tmp_path: Path) -> None:
    files, block = study(tmp_path)
    async with opened(cluster, files, block, replicas=1) as pool:
        (name,) = pool.replicas
        await asyncio.gather(*(work(pool, name, block, number) for number in range(3)))
        pool.replace(name)
        await until(lambda: {"ray_sweep_trials_total", "ray_sweep_losses_total"} <= scraped().keys(), "it is exported")
        found = scraped()
    assert found["ray_sweep_trials_total"] == {("toy", name): 6.0}
    assert found["ray_sweep_losses_total"] == {("", name): 1.0}
    assert found["ray_sweep_tokens_total"]["toy", name] == tokens(files)


def tokens(files: Store) -> float:
    from sweep.store import records

    return float(sum(record["tokens"] for record in records(files, "trials").values()))


def scraped() -> dict[str, dict[tuple[str, str], float]]:
    """Our metrics of all nodes, by model and replica."""
    found: defaultdict[str, Counter[Any]] = defaultdict(Counter)
    for node in ray.nodes():
        with urllib.request.urlopen(f"http://127.0.0.1:{node['MetricsExportPort']}/metrics", timeout=20) as page:
            for line in page.read().decode().splitlines():
                if line.startswith("ray_sweep_"):
                    name, labels, value = re.fullmatch(r"(\w+)\{(.*)\} (\S+)", line).groups()  # type: ignore[union-attr]
                    tags = dict(re.findall(r'(\w+)="([^"]*)"', labels))
                    found[name][tags.get("model", ""), tags["replica"]] += float(value)
    return dict(found)
