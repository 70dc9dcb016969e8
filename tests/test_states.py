"""Hidden states on their way from an engine to an array: bfloat16, Parquet, commit records, one column at a time."""

from __future__ import annotations

import asyncio
import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from msgspec import structs

from analysis.load import RunError
from analysis.readers.states import known, open_states, shards
from cluster.engines.transformers import TransformersEngine
from cluster.model import load
from sweep import plan, states, store, study
from sweep.__main__ import main
from sweep.engine import Call, Engine, Reading, Reply
from sweep.fakes.engine import FakeEngine
from sweep.plan import shards_of, trials_of
from sweep.protocols import knowing
from sweep.store import Store, StoreError
from sweep.stream import Stream
from sweep.trial import Anchor, Dose, Message, Outcome, Span, Template
from sweep.truths import TRUTHS
from sweep.worker import run_trials
from tests import tiny_models
from tests.toys import MODEL, direction

SPEC = """
name = "states"
models = ["fake:knower"]
shard_size = 8
[[experiments]]
protocol = "knowing"
questions = "arithmetic"
limit = 30
states = true
arms = ["none"]
"""


# -- bits -------------------------------------------------------------------------------------------------------------


def bits(values: np.ndarray) -> np.ndarray:
    return np.frombuffer(states.encode(values), dtype="<u2")


def test_rounding_is_torchs_to_the_bit() -> None:
    values = np.random.default_rng(0).integers(0, 2**32, 300_000, dtype=np.uint64).astype("<u4").view("<f4")
    ties = (np.arange(0, 2**16, 7, dtype="<u4") << 16 | 0x8000).view("<f4")  # half way: to even
    for some in (values, ties):
        some = some[~np.isnan(some)]
        torchs = torch.from_numpy(some).to(torch.bfloat16).view(torch.int16).numpy().view("<u2")
        assert (bits(some) == torchs).all()


def test_what_is_not_a_number_stays_so() -> None:
    nans = np.array([0x7F800001, 0x7FFFFFFF, 0xFF800001, 0xFFFFFFFF], dtype="<u4").view("<f4")
    assert np.isnan((bits(nans).astype("<u4") << 16).view("<f4")).all()
    assert bits(np.array([np.inf, -np.inf, 3e38, 3.4e38, -0.0], dtype=np.float32)).tolist() == [
        0x7F80, 0xFF80, 0x7F62, 0x7F80, 0x8000,
    ]  # fmt: skip


# -- files ------------------------------------------------------------------------------------------------------------


def kept(many: int, positions: tuple[str, ...] = ("question", "after"), seed: int = 0) -> list[states.Kept]:
    draw = np.random.default_rng(seed)
    rounded = lambda: torch.from_numpy(draw.normal(size=(3, 8))).to(torch.bfloat16).float().numpy()
    return [(f"t{number:03d}", {position: rounded() for position in positions}) for number in range(many)]


def opened(data: bytes | None) -> pq.ParquetFile:
    assert data is not None
    return pq.ParquetFile(io.BytesIO(data))


def test_a_file_gives_back_what_was_kept_by_row_groups_of_64() -> None:
    rows = kept(150)
    del rows[7][1]["after"]  # type: ignore[attr-defined]
    rows[9] = ("t009", {})
    file = opened(states.to_parquet(rows))
    assert [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)] == [64, 64, 21]
    assert file.schema_arrow.field("after.2").type == pa.binary(16)
    assert states.columns(file.schema_arrow) == {"question": (0, 1, 2), "after": (0, 1, 2)}
    for position in ("question", "after"):
        for layer in range(3):
            found = [
                pair for trials, x in states.groups(file, f"{position}.{layer}") for pair in zip(trials, x, strict=True)
            ]
            wanted = [(trial, each[position][layer]) for trial, each in rows if position in each]
            assert [trial for trial, _ in found] == [trial for trial, _ in wanted]
            assert all((a == b).all() for (_, a), (_, b) in zip(found, wanted, strict=True))


def test_a_column_may_be_sliced_and_chunked_but_not_lack_a_row() -> None:
    x = np.arange(48, dtype=np.float32).reshape(6, 8)
    column = pa.chunked_array([pa.array([states.encode(row) for row in x[:2]], pa.binary(16)),
                               pa.array([states.encode(row) for row in x[2:]], pa.binary(16))])  # fmt: skip
    assert (states.decode(column) == x).all()
    assert (states.decode(column.slice(3)) == x[3:]).all()
    with pytest.raises(ValueError, match="1 of 1 rows"):
        states.decode(pa.array([None], pa.binary(16)))


def test_nothing_kept_is_no_file_and_two_models_are_an_error() -> None:
    assert states.to_parquet([("a", {}), ("b", {})]) is None
    with pytest.raises(ValueError, match="'question' are"):
        states.to_parquet([("a", {"question": np.zeros((3, 8))}), ("b", {"question": np.zeros((4, 8))})])


# -- a run ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    (folder / "s.toml").write_text(SPEC)
    assert main(["run", str(folder / "s.toml"), "--run", str(folder / "r"), "--in-process", "--json"]) == 0
    return folder / "r"


def own(run: Path) -> dict[str, dict[str, np.ndarray]]:
    """By trial, straight from the files, all columns at once."""
    found: dict[str, dict[str, np.ndarray]] = {}
    for record in shards(Store(run), "knowing", "fake-knower").values():
        table = pq.read_table(run / record["file"])
        for name in table.column_names[1:]:
            for trial, state in zip(table["trial"].to_pylist(), table[name].to_pylist(), strict=True):
                found.setdefault(trial, {})[name] = np.frombuffer(state, dtype="<u2")
    return found


def test_a_run_is_read_by_column_in_the_order_of_ids(run: Path) -> None:
    found, wanted = open_states(Store(run), "knowing", "fake-knower"), own(run)
    assert len(found.parts) == 4
    assert found.trials == tuple(sorted(wanted))
    assert found.layers == dict.fromkeys(("question", "answer", "after"), tuple(range(8)))
    for position, layer in (("question", 0), ("answer", 7), ("after", 3)):
        trials, x = found.load(position, layer)
        assert trials == found.trials
        assert x.dtype == np.float32
        assert all(
            (bits(row) == wanted[trial][f"{position}.{layer}"]).all() for trial, row in zip(trials, x, strict=True)
        )
    table = known(Store(run), "knowing", "fake-knower", TRUTHS["knowing"])
    assert tuple(table["trial"]) == found.trials
    assert set(table["truth"]) == {0.0, 1.0}
    assert set(table["split"]) == {"dev", "confirm"}


def test_what_has_no_commit_record_does_not_exist(run: Path) -> None:
    data = states.to_parquet(kept(3))
    assert data is not None
    Store(run).write("states/stray-0123456789ab.parquet", data)
    assert len(open_states(Store(run), "knowing", "fake-knower").trials) == 30


def test_a_position_or_a_test_that_was_not_kept_says_so(run: Path) -> None:
    with pytest.raises(KeyError, match=r"middle\.1"):
        open_states(Store(run), "knowing", "fake-knower").load("middle", 1)
    with pytest.raises(RunError, match="states = true"):
        open_states(Store(run), "making_up", "fake-knower")


def test_damage_is_found_before_anything_is_read(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    for path in run.rglob("*"):
        if path.is_file():
            (copy / path.relative_to(run)).parent.mkdir(parents=True, exist_ok=True)
            (copy / path.relative_to(run)).write_bytes(path.read_bytes())
    record = next(iter(shards(Store(copy), "knowing", "fake-knower").values()))
    whole = (copy / record["file"]).read_bytes()
    (copy / record["file"]).write_bytes(whole[:5000] + bytes([whole[5000] ^ 1]) + whole[5001:])
    with pytest.raises(StoreError, match="not what its commit record says"):
        open_states(Store(copy), "knowing", "fake-knower").load("question", 0)
    (copy / record["file"]).unlink()
    with pytest.raises(StoreError, match="committed but missing"):
        _ = open_states(Store(copy), "knowing", "fake-knower").trials


def test_a_compacted_run_still_has_its_states(run: Path, tmp_path: Path) -> None:
    before = open_states(Store(run), "knowing", "fake-knower").load("after", 4)
    assert main(["compact", str(run), "--keep", "0", "--json"]) == 0
    after = open_states(Store(run), "knowing", "fake-knower").load("after", 4)
    assert store.manifest(Store(run), "trials")[1]
    assert before[0] == after[0]
    assert (before[1] == after[1]).all()


# -- from an engine ---------------------------------------------------------------------------------------------------


def outcomes(engine: Engine, spec: str) -> list[Outcome]:
    [block] = study.parse(spec).blocks
    trials = [trial for shard in shards_of(block) for trial in trials_of(block, shard)]

    async def run() -> list[Outcome]:
        stream = Stream(engine)
        try:
            return await run_trials(trials, knowing.PROTOCOL, stream, lambda _: Dose(alpha=None), 0)
        finally:
            stream.close()

    return asyncio.run(run())


POCKET = SPEC.replace("fake:knower", "pocket").replace("limit = 30", "limit = 3")


def test_states_are_the_models_own_and_hold_no_more_than_was_asked() -> None:
    """Against one plain forward over the prompt, or the prompt and the answer; a block's output is the next one's input
    but for the last, whose output the final norm changes."""
    [block] = study.parse(POCKET).blocks
    engine, plain = TransformersEngine(block.model, lambda _: np.zeros(0)), load(block.model)
    for outcome in outcomes(engine, POCKET):
        answer = outcome.replies["answer"]
        assert set(outcome.states) == {"question", "answer", "after"}
        held = {name: each if each.base is None else each.base for name, each in outcome.states.items()}
        assert {name: each.size for name, each in held.items()} == {
            name: np.prod(plain.shape) * (1 if name == "question" else 2) for name in outcome.states
        }, "a view keeps what nobody asked for"
        ids = plain.tokenizer(answer.rendered, add_special_tokens=False).input_ids
        said = [*ids, *answer.token_ids]
        for name, read in (("question", ids), ("answer", said)):
            with torch.no_grad():
                hidden = plain.network(input_ids=torch.tensor([read]), output_hidden_states=True).hidden_states
            own = np.stack([each[0, -1].numpy() for each in hidden[1:-1]])
            assert np.abs(outcome.states[name][:-1] - own).max() < 1e-4
        assert not np.allclose(outcome.states["after"], outcome.states["answer"])


# vLLM and what it imports warn of their own deprecations
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_two_engines_keep_equal_states(tmp_path: Path) -> None:
    pytest.importorskip("vllm", reason="vLLM is not installed: make test installs it on Linux")
    from cluster.engines.vllm import VllmEngine
    from tests import vllm_model

    model = vllm_model.folder(tmp_path / "m")
    spec = POCKET.replace('"pocket"', f'{{ name = "m", path = "{model.path}" }}')
    own = outcomes(TransformersEngine(model, vllm_model.vectors), spec)
    theirs = outcomes(VllmEngine(model, vllm_model.vectors), spec)
    for mine, other in zip(own, theirs, strict=True):
        assert mine.replies["answer"].token_ids == other.replies["answer"].token_ids
        assert mine.states.keys() == other.states.keys()
        for position, array in mine.states.items():
            assert np.abs(array - other.states[position]).max() < 1e-3 * np.abs(array).max()


def test_a_reading_may_keep_a_few_of_a_spans_positions() -> None:
    span = Span(start=Anchor(turn=0, char=5), stop="prompt_end")
    readings = tuple(Reading(span=span, keep=keep) for keep in (None, 2, -1, 99, -99))
    turn = Message(role="user", text="Tell me about bread and about oceans.")
    call = Call(trial="t", messages=(turn,), template=Template(), readings=readings, max_tokens=1)
    for engine in (TransformersEngine(tiny_models.loaded("llama"), direction), FakeEngine(MODEL, direction)):
        whole, two, last, *all_ = asyncio.run(_answer(engine, call)).readings
        assert len(whole) > 5
        assert np.allclose(two, whole[:2], atol=1e-5)
        assert np.allclose(last, whole[-1:], atol=1e-5)
        assert all(np.allclose(each, whole, atol=1e-5) for each in all_)
        with pytest.raises(ValueError, match="no end"):
            asyncio.run(_answer(engine, structs.replace(call, readings=(Reading(span=Span(), keep=1),))))


async def _answer(engine: Engine, call: Call) -> Reply:
    future = engine.submit(call)
    while engine.step():
        pass
    return future.result()


def test_states_are_part_of_what_a_trial_is() -> None:
    with_states, without = (
        study.parse(SPEC.replace("states = true", line)).blocks[0] for line in ("states = true", "")
    )
    assert plan.overlap(with_states, without) == 0
