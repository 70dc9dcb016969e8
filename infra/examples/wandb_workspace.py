"""A W&B workspace for mirrored sweeps, as code: python wandb_workspace.py ENTITY PROJECT [PROTOCOL ...]

After `sweep track`; it makes a saved view that shows, of every model of the project, what the gauges and tables of the
mirror hold. Needs pip install wandb-workspaces. `sweep columns` and the report say what the numbers mean.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import wandb_workspaces.reports.v2 as wr
import wandb_workspaces.workspaces as ws

PROTOCOLS = ("injected_thought", "forced_identification", "yes_bias")
LEADS = {"injected_thought": "detected", "forced_identification": "identified", "yes_bias": "said_yes"}
ARMS = ("concept", "none", "random", "shuffled", "negated", "wrong_concept")
X = "trials_done"


def workspace(entity: str, project: str, protocols: Sequence[str] = PROTOCOLS) -> ws.Workspace:
    """Not saved yet: `.save()` sends it."""
    return ws.Workspace(
        entity=entity,
        project=project,
        name="Introspection sweeps",
        sections=[_progress(), *(_protocol(name) for name in protocols)],
        settings=ws.WorkspaceSettings(x_axis=X),
        runset_settings=ws.RunsetSettings(groupby=[ws.Config("study")]),
    )


def _progress() -> ws.Section:
    lines = [wr.LinePlot(title=name, x=X, y=[name]) for name in ("errors", "coverage", "complete")]
    return ws.Section(name="How far it is", panels=lines, is_open=True)


def _protocol(name: str) -> ws.Section:
    """Every arm beside its controls, so that no rate stands alone; the map; what the model said."""
    measure = LEADS.get(name, "detected")
    arms = [f"{name}/{measure}/{arm}" for arm in ARMS]
    return ws.Section(
        name=name,
        panels=[
            wr.LinePlot(title=f"{measure}, by arm", x=X, y=arms, range_y=(0, 1)),
            wr.BarPlot(title=f"{measure}, by arm, now", metrics=arms, range_x=(0, 1)),
            wr.WeavePanelSummaryTable(table_name=f"cells/{name}"),
            wr.MediaBrowser(title="layer × strength", media_keys=[f"map/{name}"]),
        ],
        is_open=True,
    )


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    print(workspace(sys.argv[1], sys.argv[2], sys.argv[3:] or PROTOCOLS).save().url)
