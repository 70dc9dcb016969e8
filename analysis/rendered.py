"""What each trial of a part read first, by hash. Many read the same: a prompt is decoded once, not once a trial."""

from __future__ import annotations

import io

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from analysis.load import prompt_name

COLUMN = "replies.list.element.rendered"
SCHEMA = {"rendered": pl.UInt64, "prompt_read": pl.Categorical}


def first(data: bytes) -> pl.DataFrame:
    """A row a trial of SCHEMA: the hash of the rendered prompt and its name (`load.prompt_name`), null without one."""
    file = pq.ParquetFile(io.BytesIO(data), pre_buffer=False, read_dictionary=[COLUMN])
    groups = (file.read_row_group(each, [COLUMN], use_threads=False) for each in range(file.num_row_groups))
    return pl.concat(_first(group["replies"].combine_chunks()) for group in groups)


def _first(replies: pa.ListArray) -> pl.DataFrame:
    some, starts = replies.value_lengths().fill_null(0).to_numpy() > 0, replies.offsets.to_numpy()[:-1]
    read = replies.values.field("rendered").take(pa.array(starts, mask=~some))
    distinct = pl.DataFrame({"rendered": pl.Series(read.dictionary, dtype=pl.String).hash()})
    named = distinct.with_columns(prompt_read=prompt_name(pl.col("rendered")).cast(pl.Categorical))
    return named[pl.Series(read.indices, dtype=pl.UInt32)]


def unknown(rows: int) -> pl.DataFrame:
    return pl.DataFrame(schema=SCHEMA).clear(rows)
