"""Distances from plain questions, against their definitions; and length, which many of them turn out to be."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from scipy.spatial.distance import mahalanobis as scipys
from sklearn.covariance import LedoitWolf
from sklearn.neighbors import NearestNeighbors

from analysis.inference import Missing
from analysis.readers import detectors
from analysis.readers.probes import Rows, Scored, area, score
from sweep.questions import load


def some(many: int, hidden: int, seed: int = 0) -> np.ndarray:
    draw = np.random.default_rng(seed)
    return draw.normal(size=(many, hidden)) @ draw.normal(size=(hidden, hidden)) + 3


@pytest.mark.parametrize(("many", "hidden"), [(12, 40), (200, 10), (30, 30)])
def test_mahalanobis_is_scipys_with_the_shrunken_covariance(many: int, hidden: int) -> None:
    reference, new = some(many, hidden), some(7, hidden, seed=1)
    fitted = LedoitWolf().fit(reference)
    inverse = np.linalg.inv(fitted.covariance_)
    wanted = [scipys(x, fitted.location_, inverse) for x in new]
    assert detectors.mahalanobis(reference)(new) == pytest.approx(wanted)


def test_mahalanobis_of_states_that_are_all_alike_is_refused() -> None:
    with pytest.raises(ValueError, match="all alike"):
        detectors.mahalanobis(np.ones((5, 3)))


def test_relative_mahalanobis_is_the_difference_of_squares() -> None:
    reference, background, new = some(20, 6), some(50, 6, seed=2), some(4, 6, seed=1)
    near, far = detectors.mahalanobis(reference)(new), detectors.mahalanobis(background)(new)
    assert detectors.relative(background)(reference)(new) == pytest.approx(near**2 - far**2)
    assert detectors.relative(reference)(reference)(new) == pytest.approx(np.zeros(4))


def test_cosine_and_neighbours_are_the_librarys() -> None:
    reference, new = some(20, 6), some(4, 6, seed=1)
    assert detectors.cosine(reference)(new) == pytest.approx(cdist(new, reference.mean(0)[None], "cosine")[:, 0])
    unit = lambda x: x / np.linalg.norm(x, axis=1, keepdims=True)
    nearest = NearestNeighbors(n_neighbors=detectors.NEIGHBOURS).fit(unit(reference)).kneighbors(unit(new))[0][:, -1]
    assert detectors.knn(reference)(new) == pytest.approx(nearest)
    assert detectors.knn(reference[:2])(new) == pytest.approx(cdist(unit(new), unit(reference[:2])).max(axis=1))


# -- what they find ---------------------------------------------------------------------------------------------------


def pairs(many: int = 120, seed: int = 0) -> Rows:
    """A plain question and a strange one in each cluster."""
    draw = np.random.default_rng(seed)
    cluster = np.repeat([f"p{number:03d}" for number in range(many)], 2)
    dev = np.isin(cluster, draw.permutation(np.unique(cluster))[: many * 2 // 5])
    return Rows(truth=np.tile([0.0, 1.0], many), cluster=cluster, dev=dev, learn=np.ones(2 * many, dtype=np.bool_))


def found(x: np.ndarray, known: Rows, name: str) -> Scored:
    each = score(("question", 0, x.astype(np.float32)), known, detectors.kinds(x[::7])[name])
    assert not isinstance(each, Missing)
    return each


@pytest.mark.parametrize("name", ["cosine", "knn", "mahalanobis", "relative-mahalanobis"])
def test_what_is_far_is_found_and_what_is_near_is_a_half(name: str) -> None:
    known, draw = pairs(), np.random.default_rng(3)
    near = draw.normal(size=(240, 60)) + 4
    far = near + 3 * known.truth[:, None] * draw.choice([-1, 1], size=60)
    assert area(found(far, known, name).scores, known.truth, known.reported) > 0.95
    each = found(near, known, name)
    assert abs(area(each.scores, known.truth, known.reported) - 0.5) < 0.12
    # fewer states than coordinates: a plain one that was fitted on would look near however near all are
    assert abs(each.dev - 0.5) < 0.15


@pytest.mark.parametrize("name", ["cosine", "knn", "mahalanobis", "relative-mahalanobis"])
def test_too_few_plain_states_are_said_to_be_too_few(name: str) -> None:
    known, x = pairs(), np.random.default_rng(3).normal(size=(240, 8)).astype(np.float32)
    plain = np.flatnonzero(known.dev & (known.truth == 0))
    x[plain[3:]] = np.nan  # with three there, two are left where one is scored
    each = score(("question", 0, x), known, detectors.kinds(x[~known.dev])[name])
    assert isinstance(each, Missing)
    assert "3 are needed" in each.reason


@pytest.mark.parametrize("alike", ["states", "background"])
def test_states_that_are_all_alike_end_no_other_reader(alike: str) -> None:
    known, x = pairs(), np.random.default_rng(3).normal(size=(240, 8)).astype(np.float32)
    background = np.ones((5, 8)) if alike == "background" else x
    states = np.ones_like(x) if alike == "states" else x
    each = score(("question", 0, states), known, detectors.kinds(background)["relative-mahalanobis"])
    assert isinstance(each, Missing)
    assert "all alike" in each.reason


def test_states_that_hold_the_length_alone_find_nothing_in_pairs_of_equal_length() -> None:
    """The failure that was published: a detector of strange questions that measures how long they are."""
    known, draw = pairs(), np.random.default_rng(5)
    own = np.repeat(draw.integers(20, 90, 120), 2).astype(float)
    matched, longer = own, own + 40 * known.truth
    axis = draw.normal(size=30)
    for length, wanted in ((matched, 0.5), (longer, 0.85)):
        x = 5 + np.outer(length, axis) / 30
        value = area(found(x, known, "knn").scores, known.truth, known.reported)
        assert value == pytest.approx(wanted, abs=0.01 if wanted == 0.5 else 0.15)
        assert (area(length, known.truth, known.reported) == 0.5) == (wanted == 0.5)


def test_length_says_nothing_of_the_shipped_questions() -> None:
    questions = load("unfamiliar")
    truth = np.array([question.kind != "plain" for question in questions], dtype=float)
    length = np.array([len(question.text) for question in questions], dtype=float)
    assert area(length, truth, np.ones(len(truth), dtype=np.bool_)) == pytest.approx(0.5, abs=0.03)
