"""How a machine serves a model: settings are read strictly, and what follows from them is arithmetic."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweep.block import Block
from sweep.serving import KEYS, Serving, ServingError, ServingFor, gpus_each, leases_in_flight, parse
from tests import toys


def problems(*settings: str, models: list[str] | None = None) -> tuple[str, ...]:
    with pytest.raises(ServingError, match="sweep run --help") as caught:
        parse(settings, models)
    return caught.value.problems


def test_nothing_asked_is_the_default() -> None:
    assert parse([]).of("any") == ServingFor().of("any") == Serving()


def test_a_setting_is_for_all_models_or_for_one() -> None:
    found = parse(["memory=0.8", "big:tensor_parallel=4", "big:max_model_len=2048"], ["big", "small"])
    assert found.of("small") == Serving(memory=0.8)
    assert found.of("big") == Serving(memory=0.8, tensor_parallel=4, max_model_len=2048)


def test_the_later_setting_wins_whoever_it_is_for() -> None:
    assert parse(["max_num_seqs=8", "a:max_num_seqs=16"]).of("a").max_num_seqs == 16
    assert parse(["a:max_num_seqs=16", "max_num_seqs=8"]).of("a").max_num_seqs == 8
    assert parse(["memory=0.5", "memory=none"]).of("a") == Serving()


WRITTEN = {
    "tensor_parallel": ("2", 2),
    "pipeline_parallel": ("2", 2),
    "max_num_seqs": ("64", 64),
    "max_model_len": ("4096", 4096),
    "memory": ("0.5", 0.5),
    "kv_cache_gib": ("1.5", 1.5),
    "max_num_batched_tokens": ("8192", 8192),
    "bank_rows": ("100", 100),
    "processes": ("no", False),
    "graphs": ("false", False),
    "block_size": ("16", 16),
}


def test_every_setting_can_be_written() -> None:
    assert set(WRITTEN) == set(KEYS) == {each.name for each in fields(Serving)}
    for key, (text, value) in WRITTEN.items():
        assert parse([f"{key}={text}"]).of("a") == replace(Serving(), **{key: value}), key


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("max_num_seq=8", "unknown key 'max_num_seq'; did you mean 'max_num_seqs'?"),
        ("bog:memory=0.5", "no model 'bog'; did you mean 'big'?"),
        ("tensor_parallel", "write KEY=VALUE or MODEL:KEY=VALUE"),
        (":memory=0.5", "write KEY=VALUE or MODEL:KEY=VALUE"),
        ("tensor_parallel=0", "greater than or equal to 1"),
        ("tensor_parallel=2.5", "valid integer"),
        ("tensor_parallel=none", "valid integer"),
        ("memory=1.5", "less than or equal to 1"),
        ("memory=0", "greater than 0"),
        ("memory=nan", "less than or equal to 1"),
        ("kv_cache_gib=inf", "finite number"),
        ("graphs=maybe", "valid boolean"),
    ],
)
def test_a_bad_setting_is_one_line(setting: str, message: str) -> None:
    (found,) = problems(setting, models=["big"])
    assert found.startswith(f"--serve {setting}: ")
    assert message in found
    assert "\n" not in found


def test_every_bad_setting_is_named_at_once() -> None:
    assert len(problems("memory=2", "graphs=true", "nonsense=1")) == 2


@given(st.text(max_size=30))
def test_any_text_is_a_setting_or_a_clear_error(text: str) -> None:
    assert isinstance(serving_or_error(text), Serving | ServingError)


def serving_or_error(text: str) -> Serving | ServingError:
    try:
        return parse([text]).of("a")
    except ServingError as error:
        return error


# -- what follows -----------------------------------------------------------------------------------------------------


def vllm(name: str = "toy", **changes: object) -> Block:
    return toys.block(**{"model": replace(toys.MODEL, name=name, engine="vllm"), **changes})


@given(seqs=st.integers(1, 2000), size=st.integers(1, 5000))
def test_while_one_shard_ends_the_others_fill_the_batch(seqs: int, size: int) -> None:
    count = leases_in_flight([vllm(shard_size=size)], parse([f"max_num_seqs={seqs}"]))
    assert count >= 2
    assert (count - 1) * size >= 2 * seqs
    assert count == 2 or (count - 2) * size < 2 * seqs


def test_other_engines_hold_two_leases_and_one_gpu() -> None:
    asked = parse(["tensor_parallel=4"])
    assert leases_in_flight([toys.block(shard_size=1)], asked) == 2
    assert gpus_each([toys.block()], asked) == 1
    assert gpus_each([], asked) == 1


def test_of_several_models_the_largest_counts() -> None:
    asked = parse(["toy:tensor_parallel=2", "big:tensor_parallel=4", "big:pipeline_parallel=2", "big:max_num_seqs=8"])
    blocks = [toys.block(), vllm(shard_size=64), vllm("big", shard_size=64)]
    assert gpus_each(blocks, asked) == 8
    assert leases_in_flight(blocks, asked) == leases_in_flight([vllm(shard_size=64)], asked) == 9
