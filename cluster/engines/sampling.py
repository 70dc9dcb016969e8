"""Choosing the next token so that a row's text depends on its seed and never on its neighbours."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

_MASK = 2**64 - 1


def uniform(seed: int, step: int) -> float:
    """One number in [0, 1) for (seed, step), by splitmix64 (Steele, Lea and Flood 2014): the same in every arm."""
    return (_mixed(_mixed(seed & _MASK) + (step + 1) * 0x9E3779B97F4A7C15) >> 11) / 2**53


def uniforms(seeds: Sequence[int], steps: Sequence[int]) -> list[float]:
    """`uniform` of many at once."""
    with np.errstate(over="ignore"):
        start = _mixed_all(np.array([seed & _MASK for seed in seeds], dtype=np.uint64))
        further = (np.array(steps, dtype=np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        return ((_mixed_all(start + further) >> np.uint64(11)) / 2**53).tolist()


def _mixed_all(state: np.ndarray) -> np.ndarray:
    state = state + np.uint64(0x9E3779B97F4A7C15)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


def _mixed(state: int) -> int:
    state = (state + 0x9E3779B97F4A7C15) & _MASK
    state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK
    return state ^ (state >> 31)


def choose(
    logits: Float[Tensor, "rows vocabulary"],
    temperatures: Sequence[float],
    top_ps: Sequence[float],
    uniforms: Sequence[float],
) -> Int[Tensor, " rows"]:
    """The next token of each row: the likeliest at temperature 0, else the inverse CDF at the row's uniform.

    The CDF runs in the vocabulary's order, so that arms with one seed part only where their distributions do.
    """
    chosen = logits.argmax(-1)
    drawn = [row for row, temperature in enumerate(temperatures) if temperature > 0]
    if drawn:
        device = logits.device
        index = torch.tensor(drawn, device=device)
        scale, top_p, u = (
            torch.tensor([values[row] for row in drawn], dtype=torch.float64, device=device)[:, None]
            for values in (temperatures, top_ps, uniforms)
        )
        # float64: a running sum over 150,000 tokens in float32 is off by more than the rarer tokens weigh.
        weights = torch.softmax(logits[index].double() / scale, dim=-1)
        if min(top_ps[row] for row in drawn) < 1:
            weights = _nucleus(weights, top_p)
        steps = weights.cumsum(-1)
        found = torch.searchsorted(steps, u * steps[:, -1:], right=True)[:, 0]
        chosen[index] = torch.minimum(found, _last(weights))
    return chosen


def _nucleus(weights: Float[Tensor, "rows vocabulary"], top_p: Float[Tensor, "rows 1"]) -> Tensor:
    """The fewest likeliest tokens that reach `top_p` (Holtzman et al. 2020), the others at nought."""
    ordered, order = weights.sort(dim=-1, descending=True, stable=True)
    kept = ordered.cumsum(-1) - ordered < top_p
    return weights * torch.zeros_like(kept).scatter_(1, order, kept)


def _last(weights: Float[Tensor, "rows vocabulary"]) -> Int[Tensor, " rows"]:
    """The last token with any weight, which rounding at the end of the CDF must not pass."""
    places = torch.arange(weights.shape[1], device=weights.device)
    return torch.where(weights > 0, places, 0).amax(-1)
