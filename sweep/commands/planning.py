"""`sweep init` and `sweep plan`: an example to begin with; what a study counts, costs and lacks."""

from __future__ import annotations

import json
import re
from array import array
from collections.abc import Container, Iterator, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from sweep import plan, power, protocols, questions, study
from sweep.block import Block
from sweep.commands import Report, duration
from sweep.models import parameters
from sweep.place import Place
from sweep.protocols.interview import ELSEWHERE
from sweep.store import Store, each_record
from sweep.trial import Prompt, StrengthRule
from sweep.truths import KNOWLEDGE
from sweep.wordings import NEGATED

FOUR_WAY = ("injected_thought", "open_question", "yes_bias")  # protocols that have that reading
DOSE_TOKENS = 12 * 9 * 80  # neutral texts, strengths of a curve and the concept's own, tokens of each
CHARACTERS_A_TOKEN = 3.5  # of English in the tokenizers at hand; the cost before a first run is a bound, not a forecast


def init(path: Path, preset: str = "example", model: str | None = None) -> Report:
    """Write a preset's spec for a model; never over a file that is there."""
    if path.exists():
        raise FileExistsError(f"{path} is there already; choose another name: sweep init my-study.toml")
    text = (files("sweep.data") / f"{preset}.toml").read_text()
    path.write_text(_for_model(text, model or "pocket"))
    return Report(data={"wrote": str(path)}, lines=[f"wrote {path}", f"Next: sweep plan {path}"])


def _for_model(text: str, model: str) -> str:
    """A repository id or a folder is a path, and its last part a name."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(model).name).strip("-._") or "model"
    asked = json.dumps(name) if name == model else f'{{ name = "{name}", path = {json.dumps(model)} }}'
    return text.replace('models = ["pocket"]', f"models = [{asked}]")


def cost(found: study.Study, run: Place) -> list[str]:
    """What a study comes to, in a line or two, before it is begun."""
    data = plan_report(found, run, flops=0).data
    left = data["trials"] - data["finished"]
    tokens = sum(row["tokens"] for row in data["experiments"])
    lines = [f"{left:,} of {data['trials']:,} trials are to do; all are at most {tokens:,} token-forwards"]
    if data["seconds"]:
        lines.append(f"about {duration(data['seconds'])} on one replica, at this run's {data['rate']:.1f} trials/s")
    return lines


def plan_report(found: study.Study, run: Place, flops: float) -> Report:
    """Count what is asked, what is there already, and what it costs at most."""
    there = plan.load(Store(run))
    new = plan.difference(found.blocks, there.blocks)
    total = sum(block.size for block in plan.difference(found.blocks, []))
    asked = plan.asked(there, found.blocks)
    finished, rate = _committed(Store(run), {block.key for block in asked})
    data: dict[str, Any] = {
        "study": found.spec.name,
        "run": str(run),
        "begun": bool(there.blocks),
        "trials": total,
        "duplicates": sum(block.size for block in found.blocks) - total,
        "kept": total - sum(block.size for block in new),
        "new": sum(block.size for block in new),
        "finished": finished,
        "no_longer_asked": sum(_unasked(block, found.blocks) for block in there.blocks),
        "shards": sum(block.shards for block in (*asked, *new)),
        "experiments": [_experiment(block, found.blocks, flops) for block in found.blocks],
        "rate": rate,
        "seconds": rate and max(0, total - finished) / rate,  # of one replica; null before a first run
        "warnings": list(found.warnings),
    }
    return Report(data=data, lines=list(_plan_lines(data)))


def _unasked(block: Block, wanted: Sequence[Block]) -> int:
    if block.indices is not None:
        return 0
    return block.size - sum(plan.overlap(block, other) for other in plan.difference(wanted, []))


def _experiment(block: Block, blocks: Sequence[Block], flops: float) -> dict[str, Any]:
    tokens = sum(_tokens(prompt, block) for prompt in block.prompts) / len(block.prompts)
    size, doses = parameters(block.model), _measured_doses(block)
    return {
        "model": block.model.name,
        "protocol": block.protocol,
        "arms": list(block.arms),
        "trials": block.size,
        "items": len(block.items),
        "prompts": len(block.prompts),
        "layers": len(block.layers) if block.layers != (None,) else 0,
        "strengths": len(block.strengths) if block.strengths != (None,) else 0,
        "repeats": len(block.repeats),
        "doses": doses,
        "tokens": round(block.size * tokens + doses * DOSE_TOKENS),
        "power": _power(block),
        "advantage": _advantage(block, blocks),
        "device_seconds_bound": size and flops and 2 * size * (tokens * block.size + doses * DOSE_TOKENS) / flops,
    }


def _power(block: Block) -> dict[str, Any] | None:
    """What one cell of injected concepts can show, if as many trials of it are not injected; see `sweep.power`."""
    if "concept" not in block.arms or block.questions:
        return None
    pooled = 1 if block.draws.orders > 1 else len(block.prompts)  # such an experiment's wordings are conditions
    trials = pooled * len(block.repeats)
    return {"concepts": len(block.items), "trials": trials, **vars(power.power(len(block.items), trials))}


def _advantage(block: Block, blocks: Sequence[Block]) -> dict[str, Any] | None:
    """What reports on a model's own knowledge can show beyond all observers', if a second model is asked the same. A
    control's answer is known, and no model differs from another on it."""
    if block.protocol not in KNOWLEDGE or block.arms != ("none",):
        return None
    alike = [each for each in blocks if each.protocol == block.protocol and set(each.items) & set(block.items)]
    there = [question for each in alike for question in each.questions]
    asked = {question.unit for question in there if not question.kind.startswith(questions.CONTROL)}
    if not asked:
        return None
    return {"questions": len(asked), **vars(power.advantage(len(asked), _observers(block, alike)))}


def _observers(block: Block, alike: Sequence[Block]) -> int:
    """How many a report has to beat: the kind of question, its words and its length (once more as a reader), everybody
    else whom a wording asks, and the other models, of which there is to be one."""
    asked = [{part.name.removesuffix(NEGATED) for part in prompt.parts} for prompt in block.prompts]
    elsewhere = max(sum(name.partition(".")[0] in ELSEWHERE for name in names) for names in asked)
    return 3 + block.states + elsewhere + max(1, len({each.model.name for each in alike}) - 1)


def _measured_doses(block: Block) -> int:
    """Strengths that have a curve of KL to be measured first; the concept's own needs none."""
    rules = [s for s in block.strengths if isinstance(s, StrengthRule) and s.rule == "kl_of_concept"]
    arms = {arm: len(block.repeats) if arm in ("random", "shuffled") else 1 for arm in block.arms if arm != "concept"}
    return len(rules) * len(block.items) * len(block.layers) * len(block.spans) * sum(arms.values())


def _tokens(prompt: Prompt, block: Block) -> float:
    """Token-forwards of a trial if nothing is shared and nothing stops early: an upper bound."""
    if block.questions:
        return protocols.get(block.protocol).calls * _longest(prompt, block)
    answers = 0 if block.report == "logodds" else block.sampling.max_tokens or prompt.max_tokens
    readings = 4 if block.report in ("logodds", "both") and block.protocol in FOUR_WAY else 0
    tokens = (1 + readings) * _characters(prompt, block) / CHARACTERS_A_TOKEN + answers
    for part in prompt.parts:  # `explain` goes on where the conversation ended
        before = tokens if part.name == "explain" else 0
        answer = block.sampling.max_tokens or part.max_tokens
        tokens += before + _characters(part, block) / CHARACTERS_A_TOKEN + answer
    return tokens


def _longest(prompt: Prompt, block: Block) -> float:
    """Tokens of the longest conversation about a question of the mean length, all its parts in it, with its answer."""
    texts = [text for each in block.questions for text in (each.text, *(part for _, part in each.parts))]
    asked = sum(map(len, texts)) / len(block.questions)
    parts = max((_characters(part, block) for part in prompt.parts), default=0.0)
    answer = block.sampling.max_tokens or prompt.max_tokens
    return (_characters(prompt, block) + asked + parts) / CHARACTERS_A_TOKEN + answer


def _characters(prompt: Prompt, block: Block) -> float:
    """With the sentences that its protocol shows filled in."""
    sentence = sum(map(len, block.sentences)) / max(1, len(block.sentences))
    shown = sum(
        turn.text.count("{sentence}") + turn.text.count("{sentences}") * block.draws.sentences for turn in prompt.turns
    )
    return sum(len(turn.text) for turn in prompt.turns) + len(prompt.prefill or "") + shown * sentence


def _committed(files: Store, asked: Container[str]) -> tuple[int, float | None]:
    """Trials of these blocks that are committed, and trials a second of one replica, from all that this run has. A
    replica works on two shards at a time, so its time is that of its shards' union."""
    finished = rows = 0
    spans: dict[tuple[str, str], array[float]] = {}  # of a replica: when each shard began, and when it ended
    for name, record in each_record(files, "trials"):
        finished += record["rows"] if plan.parse_shard(name)[0] in asked else 0
        rows += record["rows"]
        times = spans.setdefault((record["driver"], record["replica"]), array("d"))
        times.extend((record["began"], record["ended"]))
    seconds = sum(map(_union, spans.values()))
    return finished, rows / seconds if seconds else None


def _union(times: Sequence[float]) -> float:
    """Seconds in at least one of these spans, each of which is its begin and then its end."""
    spans = np.reshape(times, (-1, 2))
    began, ended = spans[np.argsort(spans[:, 0])].T
    reached = np.maximum.accumulate(np.concatenate(([-np.inf], ended)))[:-1]
    return float(np.maximum(0.0, ended - np.maximum(began, reached)).sum())


def _plan_lines(data: Mapping[str, Any]) -> Iterator[str]:
    yield f"{data['study']}: {data['trials']:,} trials in {data['shards']:,} shards"
    for row in data["experiments"]:
        axes = " × ".join(
            f"{row[axis]:,} {axis}" for axis in ("prompts", "items", "layers", "strengths", "repeats") if row[axis]
        )
        yield f"  {row['model']:<12} {row['protocol']:<24} {','.join(row['arms']):<50} {row['trials']:>12,}   {axes}"
    yield from dict.fromkeys(_power_line(row) for row in data["experiments"] if row["power"])
    yield from dict.fromkeys(_advantage_line(row) for row in data["experiments"] if row["advantage"])
    doses = sum(row["doses"] for row in data["experiments"])
    if doses:
        yield f"  {doses:,} strengths are matched by measured KL first, in about {doses * 108:,} short calls"
    if data["duplicates"]:
        yield f"  {data['duplicates']:,} of these are asked for twice, and run once"
    if data["begun"]:
        gone = f", no longer asked for {data['no_longer_asked']:,}" if data["no_longer_asked"] else ""
        yield f"  {data['run']}: kept {data['kept']:,} ({data['finished']:,} finished), new {data['new']:,}{gone}"
    yield from _cost_lines(data)
    yield from (f"  warning: {warning}" for warning in data["warnings"])


def _power_line(row: Mapping[str, Any]) -> str:
    found = row["power"]
    base, rate = 100 * power.BASE, 100 * (power.BASE + power.EFFECT)
    enough, needed = found["power"] >= power.WANTED, found["needed"]
    share = "over 99%" if found["power"] > 0.99 else f"{found['power']:.0%}"
    more = "" if enough or needed is None else f"; {needed:,} concepts would have {power.WANTED:.0%}"
    if found["concepts"] < power.NULL:
        more += f"; that nothing rises takes {power.NULL} concepts or more to show"
    return (
        f"  {row['protocol']}: {found['concepts']:,} concepts × {found['trials']} trials a cell find a rise from "
        f"{base:.0f} to {rate:.0f} % in {share} of studies{more}; interval ± "
        f"{100 * found['half_width']:.0f} points (assumed ICC {power.ICC:g})"
    )


def _advantage_line(row: Mapping[str, Any]) -> str:
    found = row["advantage"]
    more = "" if found["power"] >= power.WANTED else f"; {found['needed']:,} questions would have {power.WANTED:.0%}"
    return (
        f"  {row['protocol']}: of {found['questions']:,} independent questions two models may differ on "
        f"{found['contested']:,} that are reported on; there {100 * power.GAP:.0f} points over each of "
        f"{found['observers']} observers show in {found['power']:.0%} of studies{more} (assumed: areas around "
        f"{power.AROUND:g}, any two scores correlate by {power.TOGETHER:g})"
    )


def _cost_lines(data: Mapping[str, Any]) -> Iterator[str]:
    tokens = sum(row["tokens"] for row in data["experiments"])
    yield f"  about {tokens:,} token-forwards if nothing is shared and nothing stops early"
    if data["seconds"]:
        yield f"  {duration(data['seconds'])} on one replica, at the {data['rate']:.1f} trials/s measured in this run"
    bounds = [row["device_seconds_bound"] for row in data["experiments"]]
    if all(bound is not None for bound in bounds):
        yield f"  {duration(sum(bounds))} on one device that sustained --flops: a bound by arithmetic, no forecast"
