"""The mixed batch on vLLM's second model runner, which wants Triton: run as a program, in a process of its own.

python -m tests.vllm_v2 FOLDER
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from msgspec import structs

from tests import triton_on_cpu

os.environ.update(VLLM_USE_V2_MODEL_RUNNER="1", CUDA_VISIBLE_DEVICES="")
triton_on_cpu.install()  # before anything imports Triton


def main(place: Path) -> None:
    from cluster.engines.transformers import TransformersEngine
    from cluster.engines.vllm import VllmEngine
    from sweep.serving import Serving
    from tests import vllm_model as tiny
    from tests.vllm_model import answers, same

    model = tiny.folder(place)
    reference = TransformersEngine(model, tiny.vectors)
    engine = VllmEngine(model, tiny.vectors, Serving(max_num_seqs=32), form="triton")
    assert engine.ranks.runner == "v2"
    calls = tiny.batch(tokens=2)[-14:]
    for _ in range(2):
        same(answers(engine, calls), answers(reference, calls), calls)
    drawn = [structs.replace(call, temperature=1.0, seed=n) for n, call in enumerate(calls)]
    same(answers(engine, drawn), answers(reference, drawn), drawn)
    engine.close()

    small = Serving(kv_cache_gib=16 * tiny.BLOCK_GIB, max_model_len=288, max_num_batched_tokens=96, max_num_seqs=64)
    engine = VllmEngine(model, tiny.vectors, small, form="torch")
    calls = tiny.batch(tokens=60)[:24]
    same(answers(engine, calls), answers(reference, calls), calls)
    assert engine.ranks.resumed > 0
    print("as transformers")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
