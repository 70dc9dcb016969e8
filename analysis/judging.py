"""Which trials a verdict on one model is made of: an experiment's own, and those of its controls in the same setting.

The same setting is the same model, template, temperature and injection. What else is read of a trial (log-odds beside
the text, how long an answer may be) differs between experiments and does not keep them apart; where a control was run
both ways, the way of the experiment itself counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import polars as pl

from analysis import findings
from analysis.asking import Asking
from analysis.findings import Findings, Place
from analysis.inference import Missing
from analysis.verdict import Verdict

Keys = Mapping[str, object]  # of a section


@dataclass(frozen=True, kw_only=True)
class _Judged:
    """An experiment that a verdict is on: where it is judged, and the trials there by protocol."""

    keys: Keys
    place: Place
    trials: dict[str, pl.DataFrame]
    settings: dict[str, tuple[str, str | None]]

    def take(self, keys: Keys, asked: str | None, trials: pl.DataFrame) -> None:
        protocol = str(keys["protocol"])
        self.trials[protocol] = findings.at(trials, self.place)
        self.settings[protocol] = str(keys["setting"]), asked


class Judging:
    """Collects trials, section by section; the experiments that are judged come before their controls."""

    def __init__(self, asking: Mapping[str, Asking]) -> None:
        self._asking = asking
        self._judged: dict[tuple[object, ...], list[_Judged]] = {}

    def add(self, keys: Keys, asked: str | None, trials: pl.DataFrame, place: Place | None) -> None:
        """`trials` of a section's first wording, which is `asked`; `place` where its findings are."""
        protocol, alike = str(keys["protocol"]), self._judged.setdefault(self._group(keys), [])
        if protocol == findings.JUDGED[0] and place:
            alike.append(_Judged(keys=keys, place=place, trials={}, settings={}))
            alike[-1].take(keys, asked, trials)
        elif protocol in findings.JUDGED[1:]:
            for each in alike:
                if protocol not in each.trials or keys["setting"] == each.keys["setting"]:
                    each.take(keys, asked, trials)

    def verdict(self, keys: Keys, found: Findings | None) -> Verdict | Missing | None:
        """None for an experiment that has no verdict of its own."""
        if keys["protocol"] != findings.JUDGED[0] or found is None:
            return None
        mine = self._mine(keys)
        return Missing(reason=_nowhere(found)) if mine is None else findings.judge(mine.trials, mine.place)

    def settings(self, keys: Keys) -> dict[str, tuple[str, str | None]]:
        """Of each protocol that a section's verdict rests on, the setting and the wording that were taken."""
        mine = self._mine(keys)
        return {} if mine is None else dict(mine.settings)

    def _mine(self, keys: Keys) -> _Judged | None:
        return next((each for each in self._judged.get(self._group(keys), ()) if each.keys == keys), None)

    def _group(self, keys: Keys) -> tuple[object, ...]:
        known = self._asking.get(str(keys["setting"]))
        asked = keys["setting"] if known is None else known.template  # temperature is among the keys
        return (asked, *(value for name, value in keys.items() if name not in ("protocol", "setting")))


def _nowhere(found: Findings) -> str:
    if found.declared:
        layer, dose = found.declared
        return f"the declared cell, layer {layer} and strength {dose:g}, has no trial that ended ok"
    why = found.best.reason if isinstance(found.best, Missing) else "there is none"
    return f"no cell was declared, and none can be chosen on the dev concepts: {why}"
