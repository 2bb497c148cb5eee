"""Errors of the pipeline."""

from __future__ import annotations

from ureca.errors import UrecaError


class AnnotatorError(UrecaError):
    """An annotator gave no answer after all attempts; the picture can be done again."""


class BudgetError(UrecaError):
    """The calls that were allowed are used up; the run can be taken up again."""


class OutputError(UrecaError):
    """Results cannot be written; what was written before is kept, and the run can go on later."""
