"""What the question alone gives away: observers that read it, and know nothing of the model that was asked.

Most skill at predicting what a model makes up is of this kind (AQE, 2509.15339): a logistic regression on the words and
the length of the question, and the share of ones among questions of its kind. Where the truth is of each part of a
question, the whole question says the same of all of them: so it is the part's own words, its length and its place that
are read, and its place alone; of a number by ridge regression. All are fitted on the dev trials; what they say of these
themselves comes from folds without the trial's own cluster, so that they may be chosen among there.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import polars as pl
from scipy import sparse
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GroupKFold

from analysis.selfknowledge.ladder import Source
from analysis.selfknowledge.measured import Test

FOLDS = 5
PRIOR, WORDS = "kind alone", "question's words"
PLACE, PART = "place alone", "its own words and place"
SOURCES = (Source(name=PRIOR, rung="prior", column=PRIOR), Source(name=WORDS, rung="surface", column=WORDS))
OF_PARTS = (Source(name=PLACE, rung="prior", column=PLACE), Source(name=PART, rung="surface", column=PART))
OF_WEIGHTS = (OF_PARTS[1],)  # a place has no weight but by what stands there

_STATEMENT = re.compile(r"\[(\d+)\] ([^\n]+)")
_PROPERTY = re.compile(r"[^,:(\n]+\(\d+ to \d+\)[^,.\n]*")

Fit = Callable[[pl.DataFrame, pl.DataFrame], np.ndarray]  # from trials with a truth, a score of other trials


def observers(test: Test) -> tuple[Source, ...]:
    """Who reads the questions of a test, or their parts."""
    return OF_WEIGHTS if test.weighed else OF_PARTS if test.parts else SOURCES


def with_shortcuts(trials: pl.DataFrame, texts: pl.DataFrame, test: Test) -> pl.DataFrame:
    """With a column for each of its `observers`; null where the dev trials cannot say: one class, or too few clusters
    to fold.

    `texts`: as of `selfknowledge.texts`; a question without one has no words.
    """
    there = [name for name in ("item", "prompt", "repeat") if name in texts.columns]
    read = trials.join(texts, on=there, how="left", maintain_order="left")
    read = _own(read) if test.parts else read
    fits: dict[str, Fit] = {PRIOR: _kinds, PLACE: _places, WORDS: _words, PART: _weights if test.weighed else _words}
    found = {
        each.name: _of_dev(read, fits[each.name], test) if each.rung == "prior" or read["text"].count() else None
        for each in observers(test)
    }
    return trials.with_columns(
        (pl.lit(None, pl.Float64) if score is None else pl.Series(score, nan_to_null=True)).alias(name)
        for name, score in found.items()
    )


def _own(read: pl.DataFrame) -> pl.DataFrame:
    """Each part with its own text alone: the statement with its number, or the property that is listed so far down."""
    pairs = read.select("text", "part").unique().drop_nulls()
    own = [_part(text, part) for text, part in pairs.iter_rows()]
    found = pairs.with_columns(own=pl.Series(own, dtype=pl.String))
    joined = read.join(found, on=["text", "part"], how="left", maintain_order="left")
    return joined.with_columns(text="own").drop("own")


def _part(text: str, part: str) -> str | None:
    statements, listed = dict(_STATEMENT.findall(text)), _PROPERTY.findall(text)
    return statements.get(part) or (listed[int(part) - 1] if 0 < int(part) <= len(listed) else None)


def _of_dev(trials: pl.DataFrame, fit: Fit, test: Test) -> np.ndarray | None:
    """A score a trial, NaN where there is none: of the others by all dev trials, of a dev trial by the other folds."""
    rows = trials.with_row_index("row")
    dev = rows.filter(pl.col("split") == "dev", pl.col("truth").is_not_null())
    if dev["cluster"].n_unique() < 2 * FOLDS or _alike(dev, test):
        return None
    found, rest = np.full(trials.height, np.nan), rows.filter(split="confirm")
    found[rest["row"].to_numpy()] = fit(dev, rest)
    for train, held in GroupKFold(FOLDS).split(dev, groups=dev["cluster"].to_numpy()):
        seen, unseen = dev[train], dev[held]
        if not _alike(seen, test):
            found[unseen["row"].to_numpy()] = fit(seen, unseen)
    return found


def _alike(rows: pl.DataFrame, test: Test) -> bool:
    return (rows["truth"] if test.weighed else rows["truth"] > 0.5).n_unique() < 2


def _kinds(seen: pl.DataFrame, unseen: pl.DataFrame) -> np.ndarray:
    """The kind's share of ones, with one more of each; one half for a kind that was not seen."""
    return _shares(seen, unseen, "category")


def _places(seen: pl.DataFrame, unseen: pl.DataFrame) -> np.ndarray:
    return _shares(seen, unseen, "part")


def _shares(seen: pl.DataFrame, unseen: pl.DataFrame, by: str) -> np.ndarray:
    shares = seen.group_by(by).agg(share=((pl.col("truth") > 0.5).sum() + 1) / (pl.len() + 2))
    joined = unseen.join(shares, on=by, how="left", nulls_equal=True, maintain_order="left")
    return joined["share"].fill_null(0.5).to_numpy()


def _words(seen: pl.DataFrame, unseen: pl.DataFrame) -> np.ndarray:
    """Log-odds by a regularised logistic regression."""
    known, others = _features(seen, unseen)
    model = LogisticRegression(solver="liblinear", dual=True, tol=1e-2, random_state=0)
    return model.fit(known, seen["truth"].to_numpy() > 0.5).decision_function(others)


def _weights(seen: pl.DataFrame, unseen: pl.DataFrame) -> np.ndarray:
    known, others = _features(seen, unseen)
    return Ridge().fit(known, seen["truth"].to_numpy()).predict(others)


def _features(seen: pl.DataFrame, unseen: pl.DataFrame) -> list[sparse.csr_matrix]:
    """Which words there are, the logarithms of length and number of words, standardised, and of a part its place."""
    read = [frame["text"].fill_null("").to_list() for frame in (seen, unseen)]
    count = CountVectorizer(preprocessor=_plain, token_pattern=r"\w+", binary=True)
    counted = [count.fit_transform(read[0]), count.transform(read[1])]
    sizes = [np.array([[np.log1p(len(text)), np.log1p(len(text.split()))] for text in texts]) for texts in read]
    mean, spread = sizes[0].mean(axis=0), sizes[0].std(axis=0) + 1e-9
    features = [sparse.csr_matrix(sparse.hstack([c, (s - mean) / spread])) for c, s in zip(counted, sizes, strict=True)]
    if "part" not in seen.columns:
        return features
    places = np.unique(seen["part"].to_numpy())
    stands = [(frame["part"].to_numpy()[:, None] == places).astype(float) for frame in (seen, unseen)]
    return [sparse.csr_matrix(sparse.hstack([each, at])) for each, at in zip(features, stands, strict=True)]


def _plain(text: str) -> str:
    """Digits as noughts: how long a number is says how hard a sum is, and which number it is does not."""
    return re.sub(r"\d", "0", text.lower())
