"""Is this state unlike those of plain questions? Distances that learn from plain development questions alone.

Of what is unlike them they see nothing, so no kind need be held out. Each is fitted like a probe (probes.py), on the
rows whose truth is 0: a plain question is never scored by statistics that it is in. Higher is further away.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache

import numpy as np
from sklearn.covariance import ledoit_wolf_shrinkage

from analysis.readers.probes import Kind, Unfit

NEIGHBOURS = 5
LEAST = 3  # states: with fewer there is no spread to measure a distance in

Distance = Callable[[np.ndarray], np.ndarray]  # states [rows, hidden] to [rows]
Fitted = Callable[[np.ndarray], Distance]


def cosine(reference: np.ndarray) -> Distance:
    """One less the cosine with the mean of the reference states (Ren et al. 2023's baseline)."""
    mean = _unit(reference.mean(axis=0, dtype=np.float64)[None])[0]
    return lambda x: 1 - _unit(x) @ mean


def knn(reference: np.ndarray) -> Distance:
    """Distance to the NEIGHBOURS-th nearest of the reference states, all of unit length (Sun et al. 2022)."""
    known = _unit(reference)
    place = min(NEIGHBOURS, len(known)) - 1

    def distance(x: np.ndarray) -> np.ndarray:
        squares = np.maximum(2 - 2 * _unit(x) @ known.T, 0)
        return np.sqrt(np.partition(squares, place, axis=1)[:, place])

    return distance


def mahalanobis(reference: np.ndarray) -> Distance:
    """Distance from the mean in the covariance of the reference states, shrunk to a multiple of the identity.

    C = (1 - s) S + s m I with Ledoit & Wolf's (2004) s and m = tr(S) / hidden. There are fewer states than coordinates,
    so C is inverted in the space of the states (Woodbury): no matrix of [hidden, hidden] is ever made.
    """
    mean = reference.mean(axis=0, dtype=np.float64)
    centred = reference - mean
    n, hidden = centred.shape
    shrinkage = float(ledoit_wolf_shrinkage(centred, assume_centered=True))
    floor = shrinkage * float((centred**2).sum()) / (n * hidden)
    if floor == 0:
        raise Unfit(f"{n} states that are all alike have no covariance to measure a distance in")
    inner = np.linalg.inv(n * floor / (1 - shrinkage) * np.eye(n) + centred @ centred.T) if shrinkage < 1 else None

    def distance(x: np.ndarray) -> np.ndarray:
        away = x - mean
        squares = (away**2).sum(axis=1)
        if inner is not None:
            along = away @ centred.T
            squares = squares - np.einsum("ri,ij,rj->r", along, inner, along)
        return np.sqrt(np.maximum(squares / floor, 0))

    return distance


def relative(background: np.ndarray) -> Fitted:
    """Squared Mahalanobis distance less that from a background of other questions (Ren et al. 2021): what makes a state
    unlike these, and not unlike any."""
    from_background = cache(lambda: mahalanobis(background))  # once, and where it can be said that it cannot be fitted

    def fitted(reference: np.ndarray) -> Distance:
        near, far = mahalanobis(reference), from_background()
        return lambda x: near(x) ** 2 - far(x) ** 2

    return fitted


def kinds(background: np.ndarray | None) -> Mapping[str, Kind]:
    """By name; the relative one where there are `background` states [rows, hidden] of the same position and layer."""
    found: dict[str, Fitted] = {"cosine": cosine, "knn": knn, "mahalanobis": mahalanobis}
    if background is not None:
        found["relative-mahalanobis"] = relative(background)
    return {name: _kind(fitted) for name, fitted in found.items()}


def _kind(fitted: Fitted) -> Kind:
    def fit(x: np.ndarray, y: np.ndarray, _: float) -> Distance:
        plain = x[y == 0].astype(np.float64)
        if len(plain) < LEAST:
            raise Unfit(
                f"{len(plain)} plain questions to measure a distance from; {LEAST} are needed: ask more of them"
            )
        return fitted(plain)

    return Kind(fit=fit, settings=(0.0,), trained=False)


def _unit(x: np.ndarray) -> np.ndarray:
    """Of a zero vector nan: it has no direction."""
    x = x.astype(np.float64)
    with np.errstate(invalid="ignore"):
        return x / np.linalg.norm(x, axis=1, keepdims=True)
