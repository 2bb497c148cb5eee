"""Rows of a Rerun file, read with Rerun's own reader."""

from __future__ import annotations

import pytest


def columns(path, entity):
    """All rows of one entity, by column, in the order in which they were logged; skips where Rerun
    has no reader.
    """
    chunk = pytest.importorskip("rerun.chunk", reason="this Rerun has no reader for Python")
    found = {}
    for part in chunk.RrdReader(str(path)).stream():
        if part.entity_path == entity:
            batch = part.to_record_batch()
            for name in batch.schema.names:
                column = batch.column(name)
                if str(column.type).startswith("timestamp"):
                    column = column.cast("int64")  # Python has no nanoseconds
                found.setdefault(name, []).extend(column.to_pylist())
    return found
