"""Rows as dictionaries, one at a time: slow and plainly right. What sweep.rows makes by the column is held to it."""

from __future__ import annotations

from collections.abc import Sequence

from sweep.engine import Reply
from sweep.rows import cluster, setting_of
from sweep.trial import Grade, Injection, Outcome, Protocol, StrengthRule, Trial
from sweep.words import category


def trial_row(outcome: Outcome, protocol: Protocol) -> dict[str, object]:
    trial = outcome.trial
    answer = next(iter(outcome.replies.values()), None)
    return {
        "trial": trial.id,
        "block": trial.block,
        "number": trial.index,
        "model": trial.model.name,
        "model_digest": trial.model.digest,
        "engine": trial.model.engine,
        "protocol": trial.protocol,
        "prompt": trial.prompt.name,
        "item": trial.item,
        "category": category(trial.item),
        "arm": trial.arm,
        **_injection_columns(trial.injections, trial.model.layers),
        **_receipt_columns(trial, answer),
        "repeat": trial.repeat,
        "order": trial.order if protocol.orders > 1 else None,
        "sentence": trial.sentences[0] if trial.sentences else None,
        "seed": trial.seed,
        "temperature": trial.sampling.temperature,
        "setting": setting_of(trial.template, trial.sampling, trial.report),
        "cluster": cluster(outcome, protocol),
        "split": trial.split,
        "status": outcome.status,
        "reason": outcome.reason,
        "attempt": outcome.attempt,
        "propensity": outcome.propensity,
        "text": answer.text if answer else None,
        "stop": answer.stop if answer else None,
        "tokens": sum(len(reply.token_ids) for reply in outcome.replies.values()),
        "replies": [_reply_row(name, reply) for name, reply in outcome.replies.items()],
        "measures": [{"name": name, "value": value} for name, value in outcome.measures.items()],
    }


def _injection_columns(injections: Sequence[Injection], layers: int) -> dict[str, object]:
    if not injections:
        return {"injections": 0}
    first = injections[0]
    rule = isinstance(first.strength, StrengthRule)
    return {
        "layer": first.layer,
        "depth": first.layer / layers,
        "strength": None if isinstance(first.strength, StrengthRule) else first.strength,
        "rule": f'{{"rule": "{first.strength.rule}", "at": {first.strength.at:g}}}' if rule else None,  # pyright: ignore
        "norm": first.norm,
        "mode": first.mode,
        "span": first.span,
        "injections": len(injections),
        "direction": first.direction.source.name,
        "change": first.direction.change,
    }


def _receipt_columns(trial: Trial, answer: Reply | None) -> dict[str, object]:
    if answer is None or answer.receipt.strength is None:
        return {}
    receipt, alpha = answer.receipt, answer.receipt.strength
    raw = trial.injections[0].norm == "raw"
    norm, delta, residual = receipt.direction_norm, receipt.delta_norm, receipt.residual_norm
    return {
        "alpha": alpha,
        "direction_norm": norm,
        "alpha_norm": alpha * norm if raw and norm is not None else None,
        "delta_norm": delta,
        "residual_norm": residual,
        "ratio": delta / residual if delta is not None and residual else None,
    }


def _reply_row(name: str, reply: Reply) -> dict[str, object]:
    return {
        "name": name,
        "text": reply.text,
        "token_ids": reply.token_ids,
        "stop": reply.stop,
        "prompt_tokens": reply.prompt_tokens,
        "rendered": reply.rendered,
        "marked": [[start, stop] for start, stop in reply.marked],
        "options": [{"option": option, "logprob": value} for option, value in reply.options.items()],
        "expected": reply.receipt.expected,
        "edited": reply.receipt.edited,
        "cached": reply.receipt.cached,
    }


def grade_row(grade: Grade, grader: str) -> dict[str, object]:
    return {
        "trial": grade.trial,
        "grader": grader,
        "measure": grade.measure,
        "verdict": grade.verdict,
        "score": grade.score,
        "reason": grade.reason,
        "raw": grade.raw,
        "asked": grade.asked,
    }
