"""Readers that need no model: fitted to the hidden states that a run kept, and what all readers said, as one frame."""

from __future__ import annotations

import io
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache, cached_property, partial
from typing import Any

import numpy as np
import polars as pl
from threadpoolctl import threadpool_limits

from analysis.inference import Missing
from analysis.readers import detectors, heads, probes
from analysis.readers.probes import Column, Kind, Nested, Rows, Scored
from analysis.readers.states import States, kept_by, known, open_states, shards
from sweep import readers as stages
from sweep import store
from sweep.identity import digest
from sweep.store import Record, Store
from sweep.truths import BEHIND, TRUTHS, Truth, spoken, unread

HEAD, LENGTH = "read-head", "length"
DISTANCES = ("cosine", "knn", "mahalanobis", "relative-mahalanobis")
FITTED = (*probes.KINDS, HEAD, *DISTANCES, LENGTH)
PLAIN = ("familiarity",)  # where truth 0 is a plain question, which a distance is measured from
SCARCE = 200  # questions: with fewer, all of them are scored in nested folds too
METHOD = 3  # raised where the same states are scored otherwise: what was read by an older one is read anew
BEFORE = "question"  # the position that is there before the model has answered


def fit(
    files: Store, readers: Sequence[str], protocol: str, model: str, questions: str
) -> dict[str, Record | str | None]:
    """Fit these readers to one question set, commit what they say of every trial, and give each one's record; None
    where these very states were read before; or why it cannot be fitted. One column is in memory at a time.

    Raises RunError where no states were kept.
    """
    work = Fitting(files, protocol, model, questions)
    done: dict[str, Record | str | None] = {reader: unread(reader, protocol) for reader in readers}
    able = [reader for reader, why in done.items() if why is None]
    asked = [reader for reader in able if work.name not in store.committed(files, stages.stage(reader))]
    with threadpool_limits(1):  # many small fits: on a busy machine threads wait for each other, eight times as long
        found = dict(_run(work, asked))
    return done | {name: each.reason if isinstance(each, Missing) else each for name, each in found.items()}


@dataclass(frozen=True)
class Fitting:
    """What readers of one model under one protocol are fitted to: one question set, or None for all."""

    store: Store
    protocol: str
    model: str
    questions: str | None = None

    @cached_property
    def states(self) -> States:
        return open_states(self.store, self.protocol, self.model, self.questions)

    @cached_property
    def name(self) -> str:
        """Of the commit records: they are about these files, and a run that has grown is fitted anew."""
        parts = sorted(part["sha256"] for part in self.states.parts)
        return digest("fitted", [METHOD, self.protocol, self.model, parts])[:16]

    @property
    def truth(self) -> Truth:
        return TRUTHS[self.protocol]

    @cached_property
    def table(self) -> pl.DataFrame:
        there = pl.DataFrame({"trial": list(self.states.trials)}, schema={"trial": pl.String})
        table = known(self.store, self.protocol, self.model, self.truth)
        return table.join(there, on="trial", how="semi", maintain_order="left")

    @cached_property
    def rows(self) -> Rows:
        return probes.rows(self.table, self.truth, hold_kinds=self.protocol in PLAIN)

    @property
    def kinds(self) -> Mapping[str, Kind]:
        return probes.NUMBERS if self.truth.weighed else probes.KINDS

    @cached_property
    def places(self) -> Mapping[str, Mapping[str, str | None]]:
        """The positions that say something of this truth, and that are there when the model reports: each kept one by
        its name, and which part it is of."""
        found: dict[str, dict[str, str | None]] = {}
        for name in self.states.layers:
            position, mark, part = name.partition("#")
            late = self.truth.before and position in BEHIND
            if not late and (position == self.truth.parts or not (mark or self.truth.parts)):
                found.setdefault(position, {})[name] = part or None
        return found

    def layers(self, position: str) -> tuple[int, ...]:
        return self.states.layers[next(iter(self.places[position]))] if position in self.places else ()

    def columns(self) -> Iterator[Column]:
        for position in self.places:
            yield from (self.column(position, layer) for layer in self.layers(position))

    def column(self, position: str, layer: int) -> Column:
        row = {pair: number for number, pair in enumerate(self.table.select("trial", "part").iter_rows())}
        full = None
        for name, part in self.places[position].items():
            trials, x = self.states.load(name, layer)
            use = [number for number, trial in enumerate(trials) if (trial, part) in row]
            full = np.full((len(row), x.shape[1]), np.nan, dtype=np.float32) if full is None else full
            full[[row[trials[number], part] for number in use]] = x[use]
        assert full is not None
        return position, layer, full

    @cached_property
    def others(self) -> tuple[Fitting, ...]:
        """The same model under other protocols that kept states."""
        names = [name for name, model in kept_by(self.store) if model == self.model and name != self.protocol]
        found = (Fitting(self.store, name, self.model) for name in names if name in TRUTHS)
        return tuple(each for each in found if shards(self.store, each.protocol, self.model))

    def background(self, position: str, layer: int) -> np.ndarray | None:
        """Development questions of other protocols, at the same place."""
        there = [other for other in self.others if layer in other.layers(position)]
        found = [other.column(position, layer)[2][other.rows.dev & other.rows.learn] for other in there]
        whole = np.concatenate(found) if found else np.empty((0, 1))
        whole = whole[np.isfinite(whole[:, 0])]
        return whole if len(whole) >= detectors.LEAST else None


# -- fitting ----------------------------------------------------------------------------------------------------------


def _run(work: Fitting, asked: Sequence[str]) -> Iterator[tuple[str, Record | Missing | None]]:
    """Every column is loaded once for all readers, and those that were chosen once more."""
    if LENGTH in asked:
        yield LENGTH, _length(work)
    found: dict[str, list[Scored]] = {reader: [] for reader in asked if reader != LENGTH}
    lacking: dict[str, Missing] = {}
    scarce = len(np.unique(work.rows.cluster[work.rows.labelled])) < SCARCE
    nests = {reader: Nested(work.rows, work.kinds[reader]) for reader in found if scarce and reader in work.kinds}
    for column in work.columns() if found else ():
        kinds = _kinds(work, found, column)
        score = cache(partial(probes.score, column, work.rows))  # a read-head's is the probe's
        for reader in found:
            scored = score(kinds[reader]) if reader in kinds else _not_here(work, reader)
            if isinstance(scored, Missing):
                lacking[reader] = scored
            elif reader != HEAD or column[0] == BEFORE:
                found[reader].append(scored)
        for nest in nests.values():
            nest.add(column)
    for reader, each in found.items():
        missing = lacking.get(reader, Missing(reason=f"no state was kept at {work.truth.parts or BEFORE}; run it anew"))
        yield reader, _publish(work, reader, each, nests.get(reader)) if each else missing


def _kinds(work: Fitting, readers: Collection[str], column: Column) -> dict[str, Kind]:
    """How each reader is fitted at a column; a distance only where it is from plain questions."""
    kinds = {**work.kinds, HEAD: probes.KINDS["probe"]}
    if work.protocol in PLAIN and set(DISTANCES) & set(readers):
        wanted = DISTANCES[-1] in readers
        kinds |= detectors.kinds(work.background(*column[:2]) if wanted else None)
    return kinds


def _not_here(work: Fitting, reader: str) -> Missing:
    if work.protocol in PLAIN:
        return Missing(reason="no other protocol of this model kept states, and so there is no background; add one")
    return Missing(reason=f"{reader} is a distance from plain questions, which {work.protocol} has none of")


def _publish(work: Fitting, reader: str, found: Sequence[Scored], nest: Nested | None) -> Record | None:
    chosen = probes.choose(found)
    column = work.column(chosen.position, chosen.layer)
    kind = _kinds(work, [reader], column)[reader]
    facts = {
        "chosen": {"position": chosen.position, "layer": chosen.layer, "setting": chosen.setting, "dev": chosen.dev},
        "confirm": _area(chosen.scores, work.rows, work.rows.reported),
        "curve": [_point(each, work.rows) for each in found],
        "shuffled": _shuffled(column, work.rows, kind, chosen.setting) if kind.trained else None,
        "nested": None if nest is None else _area(nest.scores, work.rows, work.rows.labelled),
    }
    if reader == HEAD:
        return _head(work, column, chosen, facts)
    names = ("trial", "part", "layer", "position", "score", "parameters")
    placed = [_rows(work, each) for each in found]
    columns = {name: [value for rows in placed for value in rows[name]] for name in names}
    return _commit(work, reader, columns, trained=kind.trained, facts=facts)


def _head(work: Fitting, column: Column, chosen: Scored, facts: Mapping[str, Any]) -> Record | None:
    """One row a trial, with its verdict in words; of development rows it is out of fold."""
    head = heads.head(column, work.rows, chosen)
    columns = _rows(work, chosen)
    p = head.calibrated(chosen.raw[np.isfinite(chosen.scores)])
    said = [spoken(head.layer, each, work.truth) for each in p.tolist()]
    columns |= {"words": said, "parameters": [head.parameters] * len(said)}
    return _commit(work, HEAD, columns, trained=True, facts={**facts, "head": head.as_json()})


def _rows(work: Fitting, scored: Scored) -> dict[str, list[Any]]:
    have = np.isfinite(scored.scores)
    many = int(have.sum())
    return {
        "trial": work.table["trial"].filter(pl.Series(have)).to_list(),
        "part": work.table["part"].filter(pl.Series(have)).to_list(),
        "layer": [scored.layer] * many,
        "position": [scored.position] * many,
        "score": scored.scores[have].tolist(),
        "parameters": [scored.parameters] * many,
    }


def _length(work: Fitting) -> Record | Missing | None:
    """Characters of the question, which is all that many a detector of strange questions goes by; with the sign that a
    long question is one that the model is not sure of."""
    if work.table["length"].null_count() == work.table.height:
        return Missing(reason=f"{work.protocol} does not measure the question's length")
    signed = work.table["length"].cast(pl.Float64) * -work.truth.sure
    columns = {"trial": work.table["trial"].to_list(), "score": signed.to_list(), "parameters": [0] * len(signed)}
    facts = {"confirm": _area(signed.fill_null(float("nan")).to_numpy(), work.rows, work.rows.reported)}
    return _commit(work, LENGTH, columns, trained=False, facts=facts)


def _commit(
    work: Fitting, reader: str, columns: Mapping[str, Sequence[object]], *, trained: bool, facts: Mapping[str, Any]
) -> Record | None:
    many = len(columns["trial"])
    same = {"reader": reader, "model": work.model, "protocol": work.protocol, "trained": trained, "forwards": 0}
    full = {**columns, **{name: [value] * many for name, value in same.items()}}
    about = {
        "model": work.model,
        "protocol": work.protocol,
        "questions": work.questions,
        "trials": work.table.height,
        "fitted": True,
        "method": METHOD,
    }
    return stages.publish(work.store, reader, work.name, full, {**about, **facts})


def _area(found: np.ndarray, rows: Rows, mask: np.ndarray) -> Record:
    """AUROC, or r, with its interval; or why there is none. `n`: independent questions behind it."""
    return asdict(probes.estimate(found, rows, mask)) | {
        "measure": rows.measure,
        "n": len(np.unique(rows.cluster[mask])),
    }


def _point(scored: Scored, rows: Rows) -> Record:
    where = {"position": scored.position, "layer": scored.layer, "setting": scored.setting, "dev": scored.dev}
    return where | _area(scored.scores, rows, rows.reported)


def _shuffled(column: Column, rows: Rows, kind: Kind, setting: float) -> Record:
    mean, most = probes.shuffled(column, rows, kind, setting)
    return {"mean": mean, "most": most, "fits": probes.SHUFFLES}


# -- reading what readers said ----------------------------------------------------------------------------------------


def said(files: Store) -> pl.DataFrame:
    """Every reader's rows, with the columns of `sweep.readers.SCHEMA`; of what was fitted anew, the newest.

    Raises StoreError for a part that is lost or damaged.
    """
    parts = [record for reader in stages.readers(files) for record in _newest(files, reader)]
    frames = [pl.read_parquet(io.BytesIO(store.read_part(files, record))) for record in parts]
    empty = pl.from_arrow(stages.SCHEMA.empty_table())
    assert isinstance(empty, pl.DataFrame)
    return pl.concat([empty, *frames], how="diagonal")  # an older version's rows lack a column


def _newest(files: Store, reader: str) -> list[Record]:
    found = list(store.records(files, stages.stage(reader)).values())
    mine = (each for each in found if each["fitted"] and each.get("method") == METHOD)
    fitted = sorted(mine, key=lambda each: each["trials"])
    last = {(each["protocol"], each["model"], each["questions"]): each for each in fitted}
    return [*last.values(), *(each for each in found if not each["fitted"])]
