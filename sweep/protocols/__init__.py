"""The experiments, by name. One's own: `protocol = "module:attribute"`, a sweep.trial.Protocol."""

from __future__ import annotations

import importlib
from difflib import get_close_matches

from sweep.protocols import (
    bridge,
    familiarity,
    forced_identification,
    hints,
    influence,
    injected_thought,
    intentional_control,
    knowing,
    localization,
    making_up,
    open_question,
    prefill,
    steps,
    strength_comparison,
    thought_or_text,
    weights,
    yes_bias,
)
from sweep.protocols.needs import Needs
from sweep.trial import Protocol

_SHIPPED = {
    protocol.name: protocol
    for protocol in (
        injected_thought.PROTOCOL,
        open_question.PROTOCOL,
        forced_identification.PROTOCOL,
        yes_bias.PROTOCOL,
        thought_or_text.PROTOCOL,
        prefill.PROTOCOL,
        intentional_control.PROTOCOL,
        localization.PROTOCOL,
        strength_comparison.PROTOCOL,
        knowing.PROTOCOL,
        making_up.PROTOCOL,
        familiarity.PROTOCOL,
        influence.PROTOCOL,
        weights.PROTOCOL,
        hints.PROTOCOL,
        steps.PROTOCOL,
        bridge.PROTOCOL,
    )
}
_NEEDS = {
    module.PROTOCOL.name: module.NEEDS
    for module in (knowing, making_up, familiarity, influence, weights, hints, steps, bridge)
}


def needs(name: str) -> Needs:
    """What a protocol's questions have to have; of one's own protocol nothing is known."""
    return _NEEDS.get(name, Needs())


def names(*, questions: bool | None = None) -> tuple[str, ...]:
    """Of the shipped ones: all, those about questions, or those about concepts."""
    return tuple(name for name, each in _SHIPPED.items() if questions is None or each.questions == questions)


def get(name: str) -> Protocol:
    """ValueError says what is wrong with the name and what to do about it."""
    if name in _SHIPPED:
        return _SHIPPED[name]
    module, colon, attribute = name.partition(":")
    if colon:
        return _own(module, attribute)
    close = get_close_matches(name, _SHIPPED, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else "."
    raise ValueError(f"no protocol {name!r}{hint} Shipped: {', '.join(_SHIPPED)}. One's own: 'module:attribute'")


def _own(module: str, attribute: str) -> Protocol:
    try:
        found: object = getattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise  # the module is there; something that it imports is not
        raise ValueError(f"no module {module!r}; put the folder that holds it on PYTHONPATH") from error
    except AttributeError as error:
        raise ValueError(f"module {module!r} has no {attribute!r}") from error
    if not isinstance(found, Protocol):
        raise ValueError(f"{module}:{attribute} is a {type(found).__name__}, not a sweep.trial.Protocol")
    return found
