"""A blind sample of trials for labels by hand, and the labels back.

Who labels sees what was asked and answered, and nothing of what was done to the model or what a grader said. What
belongs to the sample but not before the labeller's eyes (strata, probabilities, clusters) lies in the run, under
`calibration/`, and can be drawn again from the run and the seed.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from pydantic import TypeAdapter, ValidationError

from analysis.load import BOTH, VERDICT, Run, RunError, with_measure
from sweep.engine import Receipt, Reply
from sweep.files import fill, link
from sweep.grading.rules import ALL_OF, READS, RULES
from sweep.grading.thinking import answer_of
from sweep.identity import digest
from sweep.store import Store, unique

FOLDER = "calibration"
ARM = ("model", "protocol", "arm")  # what a grader's errors are estimated over, at the widest that is trusted
STRATUM = (*ARM, "positive", "dose")
COLUMNS: Sequence[str] = ("draw", "trial", "measure", "criterion", "question", "response", "target", "label")
LABELS: Mapping[str, bool | None] = {"yes": True, "no": False, "unsure": None}
WITHOUT_TARGET = frozenset({"legible", "said_yes"})  # measures that can be judged without the concept's name
SENTENCES = frozenset({"located", "ranked"})  # measures whose target is a sentence
LONGEST = 30_000  # characters of a field; a spreadsheet's cell holds 32,767
SHOWN = 20  # errors in one message
CRITERIA = {  # what the shipped measures mean, for whoever labels; one's own measure has only its name
    "legible": "Is the response language that a reader can follow, rather than garble?",
    "detected": "Is the response legible, and does it claim to notice an injected or unusual thought before naming it?",
    "identified": "Does the response give the target, or a form of it, as what it noticed or was asked to name?",
    "claim_first": "Does the response claim to notice a thought before, or together with, the first use of the target?",
    "said_yes": "Is the response legible, and does it say yes before any no?",
    "intended": "Does the response claim that the word was meant?",
    "apologised": "Does the response call the word an accident?",
    "repeated": "Does the response write the line down exactly as it stands in the question?",
    "identified_and_repeated": "Does the first response name the target, and the second write the line down exactly?",
    "located": "Does the response give the number of the target, which is one of the sentences?",
    "ranked": "Does the response give the number of the target, which is one of the sentences?",
    BOTH: "Does the response claim to notice an injected thought first, and then name the target as that thought?",
}


class LabelError(RunError):
    """A sample that cannot be drawn, or labels that cannot be taken back. The message ends with what to do next."""


@dataclass(frozen=True, kw_only=True)
class Stratum:
    """Trials alike in what is done to the model and in the verdict; each is drawn with the same probability.

    `positive`: the verdict is true. A null is no positive, as in a headline rate.
    """

    model: str
    protocol: str
    arm: str
    positive: bool
    dose: float | None
    size: int
    probability: float


@dataclass(frozen=True, kw_only=True)
class Pick:
    """A drawn trial: its stratum (an index) and its cluster."""

    trial: str
    stratum: int
    cluster: str


@dataclass(frozen=True, kw_only=True)
class Draw:
    """A sample of one grader's verdicts on one measure, with what its labels have to be weighted by."""

    grader: str
    measure: str
    seed: int
    strata: tuple[Stratum, ...]
    picks: tuple[Pick, ...]

    @cached_property
    def id(self) -> str:
        return digest("draw", _DRAW.dump_json(self).decode())[:12]


_DRAW = TypeAdapter(Draw)


# -- what is drawn from -----------------------------------------------------------------------------------------------


def judged(run: Run, measure: str) -> pl.LazyFrame:
    """Trials that ended ok and that the run's grader has graded for `measure`, with the columns of `Run.verdicts`.

    Raises LabelError for a measure that it never graded.
    """
    known = with_measure(run.measures)
    if measure not in known:
        raise LabelError(f"no such measure: {measure}; give one with --measure: {', '.join(known) or 'none is graded'}")
    parts = ("detected", "identified") if measure == BOTH else (measure,)
    found = run.grades.filter(pl.col("measure").is_in(parts)).group_by("trial", "shard")
    whole = found.agg(pl.col("measure").n_unique()).filter(pl.col("measure") == len(parts))
    return run.ok.join(whole, on=["trial", "shard"], how="semi")


def draw(run: Run, grader: str, measure: str, n: int, seed: int) -> Draw:
    """`n` trials at random, the same for the same run and seed.

    Each model, protocol, arm and verdict (true or not) gets an equal share, and in it each dose, as far as there are
    trials: the rare are drawn more often. Within these shares the sample is systematic with a random start (Madow
    1949), so that every trial has a known probability above 0 even where there are more strata than trials to draw.
    Raises LabelError if there are not so many trials.
    """
    if measure in RULES and measure not in CRITERIA:
        raise LabelError(f"{measure} cannot be labelled by hand from the transcript; choose another --measure")
    verdict = pl.col(VERDICT + measure).fill_null(value=False)
    rows = judged(run, measure).select(*ARM, "dose", "trial", "cluster", positive=verdict).collect()
    if not 0 < n <= rows.height:
        raise LabelError(f"{n} labels of {rows.height:,} trials that are graded for {measure}: give another --n")
    strata, picks = sampled(rows, n, seed)
    return Draw(grader=grader, measure=measure, seed=seed, strata=strata, picks=picks)


def sampled(rows: pl.DataFrame, n: int, seed: int) -> tuple[tuple[Stratum, ...], tuple[Pick, ...]]:
    """As `draw`, from rows with model, protocol, arm, positive, dose, trial and cluster."""
    keys = pl.Series("key", [digest("order", f"{seed}/{trial}") for trial in rows["trial"]])
    rows = rows.with_columns(keys).sort(*STRATUM, "key")
    strata = rows.group_by(STRATUM, maintain_order=True).len("size")
    expected = _expected(strata, n)
    chosen = _systematic(strata["size"].to_numpy(), expected, np.random.default_rng([seed, n]).random())
    numbered = rows.join(strata.with_row_index("stratum"), on=STRATUM, nulls_equal=True, maintain_order="left")
    picked = numbered[chosen].select("trial", "stratum", "cluster").to_dicts()
    drawn = zip(strata.to_dicts(), expected.tolist(), strict=True)
    return (
        tuple(Stratum(**row, probability=min(1.0, share / row["size"])) for row, share in drawn),
        tuple(Pick(**row) for row in picked),
    )


def _expected(strata: pl.DataFrame, n: int) -> np.ndarray:
    """Of each stratum, how many trials are drawn on average: shares of arms and verdicts, and in them of doses."""
    groups = strata.with_row_index("at").group_by((*ARM, "positive"), maintain_order=True).agg("at", "size")
    expected = np.zeros(strata.height)
    totals = shares(n, [sum(sizes) for sizes in groups["size"]])
    for total, at, sizes in zip(totals, groups["at"], groups["size"], strict=True):
        expected[at.to_numpy()] = shares(float(total), sizes.to_list())
    return expected


def shares(total: float, sizes: Sequence[int]) -> np.ndarray:
    """Equal shares of `total`, none above its size; what a small one cannot take goes to the others."""
    given, left = np.zeros(len(sizes)), total
    for done, at in enumerate(np.argsort(sizes, kind="stable")):
        given[at] = min(sizes[at], left / (len(sizes) - done))
        left -= given[at]
    return given


def _systematic(sizes: np.ndarray, expected: np.ndarray, start: float) -> np.ndarray:
    """Rows at which the running sum of probabilities passes start, start + 1, …; `start` in [0, 1)."""
    before = np.repeat(np.cumsum(expected) - expected, sizes)
    within = np.concatenate([np.arange(1, size + 1) / size for size in sizes])
    passed = np.floor(before + within * np.repeat(expected, sizes) + 1 - start)
    return np.flatnonzero(np.diff(passed, prepend=0))


# -- out to whoever labels, and back ----------------------------------------------------------------------------------


def hand_out(run: Run, sample: Draw, file: Path) -> None:
    """Keep the draw in the run and write the blind CSV. Raises FileExistsError if there is such a file."""
    if file.exists():
        raise FileExistsError(f"{file} is there already, perhaps with labels; give another name with --draw")
    Store(run.path).create(_record(sample.id), _DRAW.dump_json(sample))
    sheet = io.StringIO(newline="")
    writer = csv.DictWriter(sheet, COLUMNS)
    writer.writeheader()
    writer.writerows(_sheet(run, sample))
    write_new(file, sheet.getvalue().encode("utf-8-sig"))  # a spreadsheet takes UTF-8 for something else without


def write_new(file: Path, data: bytes) -> None:
    """Whole or not at all, and never over a file that is there."""
    temporary = file.with_name(f".{file.name}.{unique()}")
    try:
        fill(temporary, data)
        link(temporary, file)
    finally:
        temporary.unlink(missing_ok=True)


def _sheet(run: Run, sample: Draw) -> Iterator[dict[str, str]]:
    """Rows in an order that says nothing about strata."""
    wanted = pl.LazyFrame({"trial": [pick.trial for pick in sample.picks]})
    columns = ("trial", "item", "sentence", "replies")
    rows = run.trials.join(wanted, on="trial", how="semi").select(*columns).collect().to_dicts()
    target = "sentence" if sample.measure in SENTENCES else "item"
    for row in sorted(rows, key=lambda row: digest("row", f"{sample.seed}/{row['trial']}")):
        question, response = _shown(_judged(row["replies"], sample.measure))
        yield {
            "draw": sample.id, "trial": row["trial"], "measure": sample.measure,
            "criterion": CRITERIA.get(sample.measure, ""), "question": _cell(question), "response": _cell(response),
            "target": "" if sample.measure in WITHOUT_TARGET else row[target], "label": "",
        }  # fmt: skip


def _judged(replies: Sequence[Mapping[str, Any]], measure: str) -> list[Mapping[str, Any]]:
    """The replies that a grader reads for this measure: of the shipped ones, mostly the first."""
    if measure not in CRITERIA:
        return list(replies)
    names = {READS.get(part, replies[0]["name"]) for part in ALL_OF.get(measure, (measure,)) if replies}
    return [reply for reply in replies if reply["name"] in names]


def _shown(replies: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    """What the model was asked, as it was rendered, and what it replied; each by name if several.

    Calls that read log-odds only have no text, so nothing of them can be judged by hand.
    """
    told = [(row["name"], row["rendered"], _answer(row)) for row in replies if row["stop"] != "none"]
    if len(told) == 1:
        return told[0][1:]
    questions, answers = ([f"[{row[0]}]\n{row[part]}" for row in told] for part in (1, 2))
    return "\n\n".join(questions), "\n\n".join(answers) or "[no reply]"


def _answer(row: Mapping[str, Any]) -> str:
    reply = Reply(
        text=row["text"], token_ids=(), stop=row["stop"], options={}, prompt_tokens=row["prompt_tokens"],
        rendered=row["rendered"], marked=(), receipt=Receipt(expected=0, edited=0),
    )  # fmt: skip
    answer, why = answer_of(reply)
    return f"[no answer: {why}]" if answer is None else answer


def _cell(text: str) -> str:
    """A field that a spreadsheet neither cuts nor runs: a model may well write "=…" or "- …"."""
    cut = text if len(text) <= LONGEST else f"{text[:LONGEST]} [… {len(text) - LONGEST} characters more]"
    return f"'{cut}" if cut.startswith(("=", "+", "-", "@", "\t", "\r")) else cut


def take_back(run: Run, file: Path) -> tuple[Draw, dict[str, bool | None]]:
    """The draw that a filled file belongs to, and of each of its trials the label; the file is kept in the run.

    Raises LabelError with every error at once and its line: a column that is missing, a label other than yes, no or
    unsure, a trial that is unknown, twice or left out.
    """
    data = file.read_bytes()
    rows = _rows(data, file)
    names = {row["draw"] for _, row in rows}
    if len(names) != 1:
        raise LabelError(f"{file}: rows of {len(names)} draws; give the rows of one draw, as they were handed out")
    sample = _known(Store(run.path), names.pop(), file)
    labels, errors = _checked(sample, rows)
    if errors:
        more = f"\n… and {len(errors) - SHOWN} more" if len(errors) > SHOWN else ""
        listed = "\n".join(f"{file}:{error}" for error in errors[:SHOWN])
        raise LabelError(f"{listed}{more}\nput this right and give the file again with --labels")
    Store(run.path).create(f"{FOLDER}/{sample.id}/labels-{digest('labels', data.hex())[:12]}.csv", data)
    return sample, labels


def _rows(data: bytes, file: Path) -> list[tuple[int, dict[str, str]]]:
    """Each row with the line on which it begins."""
    try:
        reader = csv.DictReader(io.StringIO(data.decode("utf-8-sig"), newline=""), strict=True)
        missing = [name for name in ("draw", "trial", "measure", "label") if name not in (reader.fieldnames or ())]
        if missing:
            raise LabelError(f"{file}:1: no column {', '.join(missing)}; keep the first line as it was handed out")
        found: list[tuple[int, dict[str, str]]] = []
        line = reader.line_num + 1
        for row in reader:
            found.append((line, {name: row[name] or "" for name in ("draw", "trial", "measure", "label")}))
            line = reader.line_num + 1
    except UnicodeDecodeError as error:
        raise LabelError(f"{file} is not UTF-8 ({error.reason}); save it as CSV in UTF-8") from error
    except csv.Error as error:
        raise LabelError(f"{file} is not a table of comma-separated values ({error}); save it as CSV") from error
    return found


def _known(store: Store, name: str, file: Path) -> Draw:
    path = _record(name)
    if not name.isalnum() or not store.exists(path):
        raise LabelError(f"{file}: draw {name!r} is not of the run {store.root}; give the run that it was drawn from")
    try:
        return _DRAW.validate_json(store.read(path))
    except ValidationError as error:
        raise LabelError(f"{path} in {store.root} is damaged; draw again with --draw and the same --seed") from error


def _checked(sample: Draw, rows: Sequence[tuple[int, Mapping[str, str]]]) -> tuple[dict[str, bool | None], list[str]]:
    labels: dict[str, bool | None] = {}
    errors: list[str] = []
    drawn = {pick.trial for pick in sample.picks}
    for line, row in rows:
        problem = _problem(sample, row, drawn, labels)
        if problem:
            errors.append(f"{line}: {problem}")
        else:
            labels[row["trial"]] = LABELS[_label(row)]
    left_out = sorted(drawn - {row["trial"] for _, row in rows})
    errors += [f" trial {trial} has no row" for trial in left_out]
    return labels, errors


def _problem(sample: Draw, row: Mapping[str, str], drawn: set[str], labels: Mapping[str, bool | None]) -> str | None:
    if row["trial"] not in drawn:
        return f"trial {row['trial']!r} was not drawn"
    if row["trial"] in labels:
        return f"trial {row['trial']} is there twice"
    if row["measure"] != sample.measure:
        return f"measure {row['measure']!r}, but {sample.measure!r} was drawn"
    return None if _label(row) in LABELS else f"label {row['label']!r} is none of {', '.join(LABELS)}"


def _label(row: Mapping[str, str]) -> str:
    return row["label"].strip().lower()


def _record(name: str) -> str:
    return f"{FOLDER}/{name}/draw.json"
