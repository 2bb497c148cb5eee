"""Evaluates captions."""
