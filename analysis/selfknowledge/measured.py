"""What trials of the tests of self-knowledge measured, as frames: one long, and of one test a row a trial or a part of
it.

A measure's name says who was asked, what, and about which part: "self.which#2" is the model's own report on the second
of several things. `truth` is what in fact happened, `self` the report, `stranger` the same model about somebody else,
`others` people in general, `base` what can be seen of the question, `output` what the model's answers show without
asking (ladder.py puts them in order), `mass` how much probability stands on the letters that were asked for,
`swap` and `same` what follows from an answer or a step that was changed, and `text` and `checker` what rules read off
what was written.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from analysis.load import Run
from sweep.questions import CONTROL
from sweep.truths import TRUTHS

WHO = ("truth", "self", "stranger", "others", "base", "output", "mass", "swap", "same", "text", "checker")
NAME = rf"^({'|'.join(WHO)})\.([A-Za-z_0-9.]+)(?:#(.+))?$"
ASKED = ("model", "model_digest", "protocol", "set", "prompt", "temperature", "setting")  # nothing is pooled over these
PLACE = ("norm", "mode", "span", "layer", "strength")  # null where nothing is injected
COORDINATES = (*ASKED, "item", "category", "cluster", "split", "arm", *PLACE, "repeat", "trial")
WORDS = (
    "model", "model_digest", "protocol", "set", "prompt", "setting", "item", "category", "cluster", "split", "arm",
    "norm", "mode", "span", "trial", "who", "channel", "part",
)  # fmt: skip
COMPLIANT = 0.5  # of the probability has to stand on the letters, else the trial is none for a per-protocol reading


@dataclass(frozen=True, kw_only=True)
class Test:
    """What a test's report is held against: measures of the trial, or of each `parts` of it, by name.

    `arms`: whose trials the ladder is over; `own`: the truth is the model's own, so that two models may differ on it;
    `by_kind`: the truth is the question's kind, so that nobody who knows the kind is an observer;
    `weighed`: truth and report are numbers and not yes or no, so that there is a correlation and no area.
    """

    __test__ = False  # not one of pytest's

    protocol: str
    truth: str
    report: str
    own: bool
    by_kind: bool = False
    parts: bool = False
    weighed: bool = False
    arms: tuple[str, ...] = ("none",)


def _test(protocol: str, report: str, *, own: bool, by_kind: bool = False) -> Test:
    known = TRUTHS[protocol]
    return Test(protocol=protocol, truth=known.measure, report=report, own=own, by_kind=by_kind, arms=known.arms)


TESTS: tuple[Test, ...] = (
    _test("knowing", "self.true", own=True),
    _test("making_up", "self.before", own=True),
    _test("familiarity", "self.unusual", own=False, by_kind=True),
    Test(protocol="influence", truth="truth.top", report="self.which", own=True, parts=True),
    Test(protocol="weights", truth="truth.weight", report="self.weight", own=True, parts=True, weighed=True),
    _test("hints", "self.used", own=True),
    Test(protocol="steps", truth="truth.relied", report="self.relied", own=True),
    _test("bridge", "self.bridge", own=False),
)
PROTOCOLS = tuple(test.protocol for test in TESTS)


def load(run: Run, protocols: Sequence[str] = PROTOCOLS) -> pl.DataFrame:
    """Every measure of these protocols' trials that ended ok, a row each, some seventy bytes.

    Columns: COORDINATES, `who`, `channel`, `part` (null where there are none) and `value` (null where the model's
    answer could not be read). `set` is the question set, null where no plan says it; `strength` is the strength as
    asked, or the one that a rule refers to. Texts are never read.
    """
    kept = [pl.col(name) for name in COORDINATES if name != "strength"]
    rows = _with_set(run).filter(pl.col("status") == "ok", pl.col("protocol").is_in(protocols))
    long = rows.select(*kept, "measures", strength="dose").explode("measures").drop_nulls("measures")
    entry = pl.col("measures").struct
    named = long.with_columns(name=entry.field("name"), value=entry.field("value")).filter(
        pl.col("name").str.contains(NAME)
    )
    parts = pl.col("name").str.extract_groups(NAME).struct
    apart = named.with_columns(who=parts.field("1"), channel=parts.field("2"), part=parts.field("3"))
    found = apart.select(*COORDINATES, "who", "channel", "part", "value").cast(dict.fromkeys(WORDS, pl.Categorical))
    return found.collect(engine="streaming")


def _with_set(run: Run) -> pl.LazyFrame:
    known = {"block": list(run.sets), "set": list(run.sets.values())}
    return run.trials.join(pl.LazyFrame(known, schema={"block": pl.String, "set": pl.String}), on="block", how="left")


def wide(frame: pl.DataFrame, *, parts: bool = False) -> pl.DataFrame:
    """A row a trial (with `parts` a row a part of it): COORDINATES, and a column "<who>.<channel>" a measure.

    Without `parts`, a measure of a part is a column "<who>.<channel>#<part>"; with them, what is said of the whole
    trial stands beside each of its parts. Words are strings again.
    """
    rows = frame.cast(dict.fromkeys(WORDS, pl.String))
    where = rows.select(COORDINATES).unique("trial", maintain_order=True)
    name = pl.format("{}.{}", "who", "channel")
    if not parts:
        name = pl.when(pl.col("part").is_null()).then(name).otherwise(pl.format("{}#{}", name, "part"))
    named = rows.with_columns(name=name)
    of_parts = named.filter(pl.col("part").is_not_null()) if parts else named
    keys = ["trial", "part"] if parts else ["trial"]
    found = where.join(_pivoted(of_parts, keys), on="trial", how="inner" if parts else "left", maintain_order="left")
    if parts:
        found = found.join(_pivoted(named.filter(pl.col("part").is_null()), ["trial"]), on="trial", how="left")
    return found.sort("trial", *keys[1:])


def _pivoted(named: pl.DataFrame, keys: Sequence[str]) -> pl.DataFrame:
    if not named.height:
        return named.select(keys).unique()
    return named.pivot("name", index=list(keys), values="value", aggregate_function="first")


@dataclass(frozen=True, kw_only=True)
class Block:
    """One model under one test, question set, wording and setting: rows as `wide` has them, with `truth`, `report` and
    `mass`.

    `trials` are the arms of the test at kinds that are asked about, `controls` those of kinds whose answer is known to
    be reportable, `every` those of all arms and kinds. `others`: the other models that were asked the same, each with
    columns `other_report(model)`, `other_truth(model)` and `other_trial(model)` in `trials`.
    """

    test: Test
    keys: dict[str, object]
    trials: pl.DataFrame
    controls: pl.DataFrame
    every: pl.DataFrame
    others: tuple[str, ...]

    @property
    def model(self) -> str:
        return str(self.keys["model"])

    @property
    def questions(self) -> str | None:
        """The name of their set, None where it is not known."""
        found = self.keys.get("set")
        return None if found is None else str(found)


def blocks(frame: pl.DataFrame, test: Test) -> list[Block]:
    """Every block of a test in a frame of `load`, by model; with the reports of each model that was asked the same."""
    mine = frame.filter(pl.col("protocol").cast(pl.String) == test.protocol)
    if not mine.height:
        return []
    table = wide(mine, parts=test.parts)
    lacking = {test.truth, test.report} - set(table.columns)
    if lacking:
        return []
    whole = named(test, table)
    groups: list[tuple[dict[str, object], pl.DataFrame]] = [
        (dict(zip(ASKED, keys, strict=True)), rows) for keys, rows in whole.group_by(ASKED, maintain_order=True)
    ]
    return sorted((_block(test, keys, rows, groups) for keys, rows in groups), key=lambda each: str(each.keys))


def named(test: Test, table: pl.DataFrame) -> pl.DataFrame:
    """With what every test calls the same: `truth`, `report`, and `mass`, the probability on the report's letters."""
    mass = f"mass.{test.report}"
    known = pl.col(mass) if mass in table.columns else pl.lit(None, pl.Float64)
    return table.with_columns(truth=pl.col(test.truth), report=pl.col(test.report), mass=known)


def _block(
    test: Test, keys: dict[str, object], rows: pl.DataFrame, groups: Sequence[tuple[dict[str, object], pl.DataFrame]]
) -> Block:
    shown, others = rows.filter(pl.col("arm").is_in(test.arms)), list[str]()
    for other, theirs in groups:
        same = all(other[name] == keys[name] for name in ("set", "prompt", "temperature"))
        if same and other["model"] != keys["model"] and other["model"] not in others:
            shown = _beside(test, shown, theirs, str(other["model"]))
            others.append(str(other["model"]))
    control = pl.col("category").fill_null("").str.starts_with(CONTROL)
    return Block(
        test=test, keys=keys, trials=shown.filter(~control), controls=shown.filter(control), every=rows,
        others=tuple(others),
    )  # fmt: skip


def other_report(model: str) -> str:
    """The column of another model's report on the same item."""
    return f"other.{model}"


def other_truth(model: str) -> str:
    """The column of what is true of another model."""
    return f"other_truth.{model}"


def other_trial(model: str) -> str:
    """The column of another model's trial on the same item."""
    return f"other_trial.{model}"


def _beside(test: Test, mine: pl.DataFrame, theirs: pl.DataFrame, model: str) -> pl.DataFrame:
    """With another model's report, truth and trial on the same item, part and repeat; null where it has none."""
    on = ["item", "repeat", "arm", *PLACE, *(["part"] if test.parts else [])]
    report, truth = pl.col("report").mean().alias(other_report(model)), pl.col("truth").mean().alias(other_truth(model))
    found = theirs.group_by(on).agg(report, truth, pl.col("trial").min().alias(other_trial(model)))
    return mine.join(found, on=on, how="left", nulls_equal=True, maintain_order="left")


def contested(trials: pl.DataFrame, model: str) -> pl.DataFrame:
    """The trials on which this model and another differ in what is true of them: nothing that both of them know, or
    that is hard for everybody, tells them apart."""
    return trials.filter((pl.col("truth") > 0.5) != (pl.col(other_truth(model)) > 0.5))


def texts(run: Run, protocol: str) -> pl.DataFrame:
    """What was read first on each item (columns set, item, prompt, text): all that a reader of questions has. Of a
    question with parts in each repeat, since they stand in another order there (column repeat)."""
    rows = _with_set(run).filter(pl.col("status") == "ok", pl.col("protocol") == protocol, pl.col("arm") == "none")
    read = pl.col("replies").list.first().struct.field("rendered")
    keys = ["set", "item", "prompt", *(["repeat"] if TRUTHS[protocol].parts else [])]
    each = rows.select(*keys, text=read).drop_nulls("text").group_by(keys).agg(pl.col("text").first())
    return each.collect(engine="streaming").sort(keys)
