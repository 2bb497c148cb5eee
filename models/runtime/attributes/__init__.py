"""Attributes of regions: linear heads on region tokens, and what is computed without weights."""

from ureca.models.runtime.attributes.reader import (
    ARRAYS,
    ATTRIBUTES_FILE,
    CATEGORY,
    COMPUTED,
    AttributeReader,
    answer_category,
    answer_location,
    check_heads,
    checkpoint_attributes,
    save_arrays,
)

__all__ = [
    "ARRAYS",
    "ATTRIBUTES_FILE",
    "CATEGORY",
    "COMPUTED",
    "AttributeReader",
    "answer_category",
    "answer_location",
    "check_heads",
    "checkpoint_attributes",
    "save_arrays",
]
