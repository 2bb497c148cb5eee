"""Measures of an evaluation."""
