"""Writes the results of an evaluation as tables, charts and pages."""
