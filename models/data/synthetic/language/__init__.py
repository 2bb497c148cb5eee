"""Texts that are true of a view, and the judge of captions."""
