"""The data dictionary: every column of every table, what it means, its unit, and what a null in it says.

The schemas of the files are made from it (`sweep.rows`), and so is what `sweep columns` prints. Null means unknown or
not applicable, never zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

ACTIVATION = "length in the residual stream"
NATS = "nats"
TRIAL = "identity: 32 hex digits, a hash of everything that could change the answer"
NOTHING = "nothing is injected"
UNANSWERED = "the trial did not end ok"
UNMEASURED = f"{NOTHING}, or the receipt holds no such number"


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column. `unit` None: it is a name, a text or a choice; `null` None: it is never null. `said`: its type in
    words, where that of `kind` would not say it."""

    name: str
    kind: pa.DataType
    meaning: str
    unit: str | None
    null: str | None
    said: str | None = None

    @property
    def type(self) -> str:
        return self.said or str(self.kind)

    @property
    def field(self) -> pa.Field:
        known = {"meaning": self.meaning, "unit": self.unit, "null": self.null}
        return pa.field(self.name, self.kind, metadata={name: text for name, text in known.items() if text})

    @property
    def line(self) -> str:
        """Meaning, unit and null in one line."""
        return self.meaning + (f" [{self.unit}]" if self.unit else "") + (f"; null: {self.null}" if self.null else "")


def _column(name: str, kind: pa.DataType, meaning: str, *, unit: str | None = None, null: str | None = None) -> Column:
    return Column(name=name, kind=kind, meaning=meaning, unit=unit, null=null)


OPTION = pa.struct([("option", pa.string()), ("logprob", pa.float64())])
MEASURED = pa.struct([("name", pa.string()), ("value", pa.float64())])

REPLY: tuple[Column, ...] = (
    _column("name", pa.string(), "which call of the protocol this is"),
    _column("text", pa.string(), "what the model wrote"),
    _column("token_ids", pa.list_(pa.int32()), "the same as token ids of the model"),
    _column("stop", pa.string(), "why it ended: end, length, none"),
    _column("prompt_tokens", pa.int32(), "length of what was read", unit="tokens"),
    _column("rendered", pa.string(), "what was read, as the chat template renders it"),
    _column(
        "marked",
        pa.list_(pa.list_(pa.int32())),
        "start and stop of each span in `rendered`; a stop of null: it goes on while the answer is written",
        unit="characters",
    ),
    _column("options", pa.list_(OPTION), "log-probability of each option asked for, as the first token", unit=NATS),
    _column("expected", pa.int32(), "positions that the span covers", unit="tokens"),
    _column("edited", pa.int32(), "positions of the span that this call edited", unit="tokens"),
    _column("cached", pa.int32(), "positions that came from a block cached under the same injection", unit="tokens"),
)

TRIALS: tuple[Column, ...] = (
    _column("trial", pa.string(), TRIAL),
    _column("block", pa.string(), "block of the plan that the trial was drawn from"),
    _column("number", pa.int64(), "index of the trial in its block", unit="count from 0"),
    _column("model", pa.string(), "model name as the spec gives it"),
    _column("model_digest", pa.string(), "commit, or digest of the local files"),
    _column("engine", pa.string(), "kind of engine"),
    _column("protocol", pa.string(), "experiment"),
    _column("prompt", pa.string(), "name of the wording"),
    _column("item", pa.string(), "concept or question"),
    _column(
        "category",
        pa.string(),
        "category that a shipped word list puts the item in; of a question its kind: control-... is a positive "
        "control, invented does not exist, of absent nobody was told, plain is what unusual ones are held against",
        null="no shipped list holds it",
    ),
    _column("arm", pa.string(), "what was done to the model"),
    _column("layer", pa.int32(), "decoder block of the first injection", unit="block, from 0", null=NOTHING),
    _column("depth", pa.float64(), "layer / number of layers", unit="share, 0 to 1", null=NOTHING),
    _column(
        "strength",
        pa.float64(),
        "alpha of the first injection as asked",
        unit="multiples of the direction, see norm",
        null=f"{NOTHING}, or a rule gives the strength",
    ),
    _column(
        "rule", pa.string(), "strength rule of the first injection, as JSON", null=f"{NOTHING}, or strength is a number"
    ),
    _column(
        "alpha",
        pa.float64(),
        "alpha that was applied: the strength, or what the rule resolved to",
        unit="multiples of the direction, see norm",
        null=UNMEASURED,
    ),
    _column("norm", pa.string(), "norm convention: raw, unit, residual", null=NOTHING),
    _column("mode", pa.string(), "add, replace, project_out", null=NOTHING),
    _column("span", pa.string(), "where the injection acts", null=NOTHING),
    _column("injections", pa.int32(), "number of injections", unit="count"),
    _column("direction", pa.string(), "name of the first injection's source", null=NOTHING),
    _column("change", pa.string(), "what was done to the source: none, negated, shuffled, random", null=NOTHING),
    _column("repeat", pa.int32(), "repeat of the same coordinates", unit="count from 0"),
    _column(
        "order",
        pa.int32(),
        "which of its protocol's orders the sentences stand in",
        unit="count from 0",
        null="there is only one order",
    ),
    _column(
        "sentence",
        pa.string(),
        "the sentence, of several the one that was chosen",
        null="the protocol has no sentences",
    ),
    _column("seed", pa.uint64(), "seed of the trial, shared by its arms"),
    _column("temperature", pa.float64(), "sampling temperature", unit="0 is greedy"),
    _column("setting", pa.string(), "digest of template, sampling and report; see the plan. Rates never pool over it"),
    _column(
        "cluster",
        pa.string(),
        "independent unit: the item, or for a control whose prompt does not hold it the distinct prompt and seed",
    ),
    _column("split", pa.string(), "dev or confirm, by hash of the item"),
    _column("status", pa.string(), "ok, error, skipped"),
    _column("reason", pa.string(), "why the status is not ok", null="the status is ok"),
    _column("attempt", pa.int32(), "0 for the first attempt at the trial", unit="count from 0"),
    _column(
        "propensity",
        pa.float64(),
        "probability with which a policy chose the trial",
        unit="probability",
        null="no policy chose it",
    ),
    _column("text", pa.string(), "the answer (the first reply's text)", null=UNANSWERED),
    _column("stop", pa.string(), "why the answer ended: end, length, none", null=UNANSWERED),
    _column("tokens", pa.int32(), "generated tokens over all replies", unit="tokens"),
    _column(
        "direction_norm",
        pa.float64(),
        "||v|| of the first injection's direction at its layer, as extracted",
        unit=ACTIVATION,
        null=UNMEASURED,
    ),
    _column(
        "alpha_norm",
        pa.float64(),
        "alpha ||v|| as extracted",
        unit=ACTIVATION,
        null=f"{UNMEASURED}, or the norm convention is not raw",
    ),
    _column("delta_norm", pa.float64(), "mean ||delta|| over the edited positions", unit=ACTIVATION, null=UNMEASURED),
    _column(
        "residual_norm",
        pa.float64(),
        "mean ||h|| over the same positions before the edit",
        unit=ACTIVATION,
        null=UNMEASURED,
    ),
    _column(
        "ratio",
        pa.float64(),
        "delta_norm / residual_norm: how hard the stream was hit",
        unit="ratio",
        null=f"{UNMEASURED}, or the stream there is zero",
    ),
    Column(
        name="replies",
        kind=pa.list_(pa.struct([column.field for column in REPLY])),
        meaning="every call of the trial, in order",
        unit=None,
        null=None,
        said="list<the table replies>",
    ),
    _column(
        "measures",
        pa.list_(MEASURED),
        "numbers the protocol measured, each by its name",
        unit="logodds: nats; cosine: 1",
    ),
)

GRADES: tuple[Column, ...] = (
    _column("trial", pa.string(), "identity of the trial"),
    _column("grader", pa.string(), "who graded, with its version"),
    _column("measure", pa.string(), "what was judged"),
    _column("verdict", pa.bool_(), "whether the measure holds of the answer", null="the grader could not tell"),
    _column("score", pa.float64(), "a number where the measure has one", unit="the grader's", null="it has none"),
    _column("reason", pa.string(), "why", null="the grader gives none"),
    _column("raw", pa.string(), "what a judge wrote, in full", null="no judge was asked"),
    _column("asked", pa.string(), "digest of what the judge was asked", null="no judge was asked"),
)

STATES: tuple[Column, ...] = (
    _column("trial", pa.string(), "identity of the trial"),
    Column(
        name="<position>.<layer>",
        kind=pa.binary(2),
        meaning="the residual stream behind a decoder block, a column for each at each position (question: the prompt's"
        " last token; answer: its last token; after: the token behind that; name#part: the last token of a part of the "
        "prompt): bfloat16, little-endian, as many as the model is wide",
        unit=ACTIVATION,
        null="the trial has no such position: nothing was answered",
        said="fixed_size_binary[2 x width]",
    ),
)

READERS: tuple[Column, ...] = (
    _column("reader", pa.string(), "who judged: probe, lens, ..., or oracle, its adapter's name and digest"),
    _column("model", pa.string(), "model name as the spec gives it"),
    _column("protocol", pa.string(), "experiment"),
    _column("trial", pa.string(), "identity of the trial"),
    _column(
        "part",
        pa.string(),
        "which part of the question is judged, as in a measure's name behind #",
        null="the trial is judged as a whole",
    ),
    _column("layer", pa.int32(), "decoder block that is looked at", unit="block, from 0", null="none is"),
    _column("position", pa.string(), "where in the text it is looked at, see states", null="at no position"),
    _column(
        "score",
        pa.float64(),
        "verdict: the higher, the likelier is the truth of the trial or part 1, or the more it weighs",
        unit="the reader's",
        null="the reader could not tell",
    ),
    _column("trained", pa.bool_(), "whether it was trained, on labels or to read activations"),
    _column("forwards", pa.int32(), "passes of a model for this row, beyond those of the trial itself", unit="count"),
    _column("parameters", pa.int64(), "trained parameters", unit="count"),
    _column("words", pa.string(), "the verdict in words", null="the reader gives numbers only"),
)

OPENED: tuple[Column, ...] = (
    _column("shard", pa.string(), "part of the plan that was committed at once; joins a trial with its grades"),
    _column(
        "dose",
        pa.float64(),
        "strength as asked, or the strength that a rule refers to",
        unit="multiples of the direction, see norm",
        null=NOTHING,
    ),
    _column("matched", pa.string(), "rule that the doses are matched by", null="the doses are those of equal norm"),
    _column(
        "unit",
        pa.uint64(),
        "what makes a repeat within a concept a new draw: the seed, or at temperature 0 a hash of what was read",
        null="temperature 0, and nothing was read",
    ),
    _column(
        "read_cluster",
        pa.string(),
        "independent unit of numbers that are read before anything is drawn: as cluster, but of a control the prompt "
        "alone, whatever the seed",
    ),
    _column(
        "wording",
        pa.string(),
        "the prompt's name where rates are not pooled over wordings",
        null="rates are pooled over the wordings",
    ),
    _column(
        "verdict_<measure>",
        pa.bool_(),
        "the verdict on a measure, one column each; detected_and_identified follows from two of them",
        null="the grader could not tell, or has not graded it",
    ),
)

TABLES: dict[str, tuple[str, Sequence[Column]]] = {
    "trials": ("trials/*.parquet, one row an attempt at a trial", TRIALS),
    "replies": ("fields of the column `replies` of trials", REPLY),
    "grades": ("grades/<grader>/*.parquet, one row a trial and measure", GRADES),
    "states": ("states/*.parquet, where a spec asks for `states`: one row a trial that ended ok", STATES),
    "readers": ("readers/<reader>/*.parquet, one row a trial, part, layer and position", READERS),
    "opened": ("what opening a run, or exporting it, adds to the columns of trials", OPENED),
}


def schema(columns: Sequence[Column]) -> pa.Schema:
    """Columns as the schema of a file; each field carries its meaning, unit and null as metadata."""
    return pa.schema([column.field for column in columns])
