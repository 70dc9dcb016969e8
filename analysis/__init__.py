"""Reading what happened: from committed Parquet to rates, intervals, figures and a report."""
