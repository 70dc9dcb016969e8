"""What the question alone gives away: observers that read it, and know nothing of the model that was asked.

Most skill at predicting what a model makes up is of this kind (AQE, 2509.15339): a logistic regression on the words and
the length of the question, and the share of ones among questions of its kind. Both are fitted on the dev trials; what
they say of these themselves comes from folds without the trial's own cluster, so that they may be chosen among there.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import polars as pl
from scipy import sparse
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold

from analysis.selfknowledge.ladder import Source

FOLDS = 5
PRIOR, WORDS = "kind alone", "question's words"
SOURCES = (Source(name=PRIOR, rung="prior", column=PRIOR), Source(name=WORDS, rung="surface", column=WORDS))

Fit = Callable[[pl.DataFrame, pl.DataFrame], np.ndarray]  # from trials with a truth, a score of other trials


def with_shortcuts(trials: pl.DataFrame, texts: pl.DataFrame) -> pl.DataFrame:
    """With a column for each of SOURCES; null where the dev trials cannot say: one class, or too few clusters to fold.

    `texts`: as of `selfknowledge.texts`; a question without one has no words.
    """
    read = trials.join(texts, on=["item", "prompt"], how="left", maintain_order="left")
    found = {PRIOR: _of_dev(read, _kinds), WORDS: _of_dev(read, _words) if texts.height else None}
    return trials.with_columns(
        (pl.lit(None, pl.Float64) if score is None else pl.Series(score, nan_to_null=True)).alias(name)
        for name, score in found.items()
    )


def _of_dev(trials: pl.DataFrame, fit: Fit) -> np.ndarray | None:
    """A score a trial, NaN where there is none: of the others by all dev trials, of a dev trial by the other folds."""
    rows = trials.with_row_index("row")
    dev = rows.filter(pl.col("split") == "dev", pl.col("truth").is_not_null())
    if dev["cluster"].n_unique() < 2 * FOLDS or (dev["truth"] > 0.5).n_unique() < 2:
        return None
    found, rest = np.full(trials.height, np.nan), rows.filter(split="confirm")
    found[rest["row"].to_numpy()] = fit(dev, rest)
    for train, held in GroupKFold(FOLDS).split(dev, groups=dev["cluster"].to_numpy()):
        seen, unseen = dev[train], dev[held]
        if (seen["truth"] > 0.5).n_unique() == 2:
            found[unseen["row"].to_numpy()] = fit(seen, unseen)
    return found


def _kinds(seen: pl.DataFrame, unseen: pl.DataFrame) -> np.ndarray:
    """The kind's share of ones, with one more of each; one half for a kind that was not seen."""
    shares = seen.group_by("category").agg(share=((pl.col("truth") > 0.5).sum() + 1) / (pl.len() + 2))
    joined = unseen.join(shares, on="category", how="left", nulls_equal=True, maintain_order="left")
    return joined["share"].fill_null(0.5).to_numpy()


def _words(seen: pl.DataFrame, unseen: pl.DataFrame) -> np.ndarray:
    """Log-odds by a regularised logistic regression on words, and on the logarithms of length and number of words."""
    read = [frame["text"].fill_null("").to_list() for frame in (seen, unseen)]
    count = CountVectorizer(preprocessor=_plain, token_pattern=r"\w+", binary=True)
    counted = [count.fit_transform(read[0]), count.transform(read[1])]
    sizes = [np.array([[np.log1p(len(text)), np.log1p(len(text.split()))] for text in texts]) for texts in read]
    mean, spread = sizes[0].mean(axis=0), sizes[0].std(axis=0) + 1e-9
    features = [sparse.hstack([c, (s - mean) / spread]).tocsr() for c, s in zip(counted, sizes, strict=True)]
    model = LogisticRegression(solver="liblinear", dual=True, tol=1e-2, random_state=0).fit(
        features[0], seen["truth"].to_numpy() > 0.5
    )
    return model.decision_function(features[1])


def _plain(text: str) -> str:
    """Digits as noughts: how long a number is says how hard a sum is, and which number it is does not."""
    return re.sub(r"\d", "0", text.lower())
