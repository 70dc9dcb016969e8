"""Reading what happened: from committed Parquet to rates, intervals, figures and a report."""

from analysis.frames import open_frame as open  # noqa: A004 - it reads well as analysis.open

__all__ = ["open"]
