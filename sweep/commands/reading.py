"""`sweep read`: what readers of activations say of the trials whose hidden states a run kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sweep.commands import DONE, INCOMPLETE, CommandError, Report, existing
from sweep.driving.progress import Watch
from sweep.place import Place
from sweep.plan import load
from sweep.questions.asked import sets
from sweep.spec import nearest
from sweep.store import Record, Store
from sweep.truths import TRUTHS, unread

HEAD = "read-head"
FITTED = ("probe", "ridge", "mass-mean", HEAD, "cosine", "knn", "mahalanobis", "relative-mahalanobis", "length")
LOADED = ("lens", "perplexity", "patchscopes")
ORACLE = "oracle:"  # and the folder of an adapter

Test = tuple[str, str, str]  # protocol, model and question set
Tell = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Readers:
    """What other folders do. `fit`: readers to states of a protocol, model and question set: by name a record, or why
    there is none, or None where that was done before. `load`: a reader that needs the model reads all that it has not
    read: how many shards by protocol, or why none; it says how far it is."""

    fit: Callable[[Store, Sequence[str], str, str, str], Mapping[str, Record | str | None]]
    load: Callable[[Store, str, str, Callable[[int, int], None]], Mapping[str, int] | str]


def read(run: Place, names: Sequence[str], readers: Readers) -> Report:
    """Let readers read what was kept, minus what they have read. Raises CommandError for one that is none, and for a
    run without hidden states."""
    files, wanted = existing(run), _known(names)
    kept = _kept(files)
    if not kept:
        raise CommandError(
            f"{run} kept no hidden states of a test that readers are held against ({', '.join(TRUTHS)}): put "
            "`states = true` into such an experiment of the spec, then: sweep run SPEC"
        )
    now = ["reading"]
    with Watch(lambda: now[0]) as watch:

        def tell(text: str) -> None:
            now[0] = text
            watch()

        found = [*_fit(files, wanted, kept, readers, tell), *_load(files, wanted, kept, readers, tell)]
    lines = [f"{run}: {len(wanted)} readers", *map(_line, found), f"Next: sweep report {run}"]
    lacking = all("missing" in each for each in found)
    return Report(data={"run": str(run), "readers": found}, lines=lines, code=INCOMPLETE if lacking else DONE)


def heads(run: Place, text: str, ask: Callable[[Store, str], Sequence[Record]], names: Sequence[str] = ()) -> Report:
    """A question to each model that has a read-head: its answer, and what its heads say. Raises CommandError where no
    head of the run can be asked a mere text, and where other readers are named or nothing is asked."""
    if not text.strip():
        raise CommandError(f'nothing is asked: sweep read {run} --ask "What is the capital of France?"')
    if others := sorted(set(names) - {HEAD}):
        raise CommandError(f"--ask is for the {HEAD} alone, not {', '.join(others)}: leave --reader out")
    found = ask(existing(run), text)
    if not found:
        raise CommandError(f"{run} has no read-head yet: sweep read {run} --reader read-head")
    lines = [
        f"{each['model']}, {each['protocol']}: {each['missing']}"
        if "missing" in each
        else f"{each['model']}: {each['answer']}\n  {each['protocol']} on {each['questions']}: {each['words']}"
        for each in found
    ]
    if all("missing" in each for each in found):
        able = ", ".join(name for name, truth in TRUTHS.items() if truth.alone)
        told = "\n  ".join(lines)
        raise CommandError(
            f"no read-head of {run} can be asked this:\n  {told}\nPut `states = true` into an experiment of {able} with"
            f" a model that has weights, then: sweep run SPEC, sweep read {run} --reader read-head, and ask again"
        )
    return Report(data={"run": str(run), "heads": found}, lines=lines)


def _known(names: Sequence[str]) -> list[str]:
    wanted = list(dict.fromkeys(names or (*FITTED, *LOADED)))
    for name in wanted:
        if name not in (*FITTED, *LOADED) and not name.startswith(ORACLE):
            hint = nearest(name, [*FITTED, *LOADED, f"{ORACLE}FOLDER"])
            raise CommandError(f"no reader {name!r}{hint}")
    return wanted


def _kept(files: Store) -> list[Test]:
    blocks = load(files).blocks
    named = sets(blocks)
    kept = (block for block in blocks if block.states and block.protocol in TRUTHS)
    return list(dict.fromkeys((block.protocol, block.model.name, named[block.key]) for block in kept))


def _fit(files: Store, wanted: Sequence[str], kept: Sequence[Test], readers: Readers, tell: Tell) -> Iterator[Record]:
    fitted = [name for name in wanted if name in FITTED]
    for protocol, model, asked in kept if fitted else ():
        tell(f"{protocol} on {asked}, {model}: fitting {len(fitted)} readers")
        for name, record in readers.fit(files, fitted, protocol, model, asked).items():
            yield {"protocol": protocol, "questions": asked, "model": model, "reader": name, **_fitted(record)}


def _load(files: Store, wanted: Sequence[str], kept: Sequence[Test], readers: Readers, tell: Tell) -> Iterator[Record]:
    for name in (name for name in wanted if name not in FITTED):
        for model in dict.fromkeys(model for _, model, _ in kept):
            why = {protocol: unread(name, protocol) for protocol, other, _ in kept if other == model}
            read = {} if all(why.values()) else readers.load(files, name, model, _shards(name, tell))
            for protocol, lacking in why.items():
                told = lacking or (read if isinstance(read, str) else read.get(protocol, 0))
                found = {"missing" if isinstance(told, str) else "shards": told}
                yield {"protocol": protocol, "model": model, "reader": name, **found}


def _shards(name: str, tell: Tell) -> Callable[[int, int], None]:
    return lambda done, all_: tell(f"{name}: {done} of {all_} shards read")


def _fitted(record: Record | str | None) -> dict[str, Any]:
    if record is None:
        return {"before": True}
    if isinstance(record, str):
        return {"missing": record}
    return {name: record[name] for name in ("chosen", "confirm", "shuffled", "nested") if name in record}


def _line(found: Record) -> str:
    on = f" on {found['questions']}" if "questions" in found else ""
    return f"  {found['protocol']}{on}, {found['model']}, {found['reader']}: {_said(found)}"


def _said(found: Record) -> str:
    if "missing" in found:
        return found["missing"]
    if "shards" in found:
        return f"{found['shards']} shards read" if found["shards"] else "read before"
    if "before" in found:
        return "read before, and nothing was added since"
    area = found["confirm"]
    if "reason" in area:
        return area["reason"]
    told = f"{area['value']:.2f} ({area['low']:.2f} to {area['high']:.2f})"
    said = f"{area['measure']} {told} on {area['n']} questions to confirm"
    if chosen := found.get("chosen"):
        said += f", at {chosen['position']} of layer {chosen['layer']}, chosen on the others"
    if shuffled := found.get("shuffled"):
        said += f"; labels shuffled {shuffled['mean']:.2f}"
    return said
