"""A run by hand: the main map, and one contrast with its interval. As a notebook, or: python explore.py RUN [FOLDER]

The `# %%` lines are cells to Jupyter, VS Code and others. Needs pip install 'introspection-sweep[analysis]'.
"""

# %% Open a run. `frame` is lazy: nothing is read before it is asked for. What a column means: sweep columns
import sys
from pathlib import Path

import altair as alt
import polars as pl

import analysis
from analysis.inference import contrast
from analysis.rates import rates

RUN = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/pocket")
FOLDER = Path(sys.argv[2] if len(sys.argv) > 2 else ".")

run = analysis.open(RUN)
print(f"{run.run.name}: {len(run.files)} files, measures {', '.join(run.measures)}")

# %% The trials that rates are over: one experiment under one model, every planned trial that ended ok
ok = pl.col("status") == "ok"
trials = run.frame.filter(ok, pl.col("protocol") == "injected_thought").drop("replies").collect()
model = trials["model"].min()
trials = trials.filter(pl.col("model") == model)
print(f"{trials.height:,} trials of {model}, {trials['item'].n_unique()} concepts")

# %% The main map: how often it detects the concept, in each layer and at each strength
concept = trials.filter(pl.col("arm") == "concept")
cells = rates(concept.lazy(), ["layer", "dose"], "verdict_detected")
heat = (
    alt.Chart(cells, title=f"{model}: detected, concept injected", width=40 * cells["dose"].n_unique())
    .mark_rect()
    .encode(
        x=alt.X("dose:O", title="strength"),
        y=alt.Y("layer:O", sort="descending"),
        color=alt.Color("rate:Q", scale=alt.Scale(domain=[0, 1], scheme="blues"), title="rate"),
        tooltip=["layer", "dose", "rate", "low", "high", "n", "trials", "coverage"],
    )
)
heat.save(FOLDER / "map.svg")
print(cells.select("layer", "dose", "rate", "low", "high", "n", "coverage"))

# %% One contrast: at one cell, named before the data were seen, does the concept beat no injection? Paired by seed
layer, dose = 4, 1.0
here = concept.filter(pl.col("layer") == layer, pl.col("dose") == dose)
found = contrast(here, trials.filter(pl.col("arm") == "none"), "verdict_detected")
print(f"layer {layer}, strength {dose:g}, concept less no injection: {found}")
