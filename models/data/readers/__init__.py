"""Readers of other data sets into our own folders: a module per format, a common core."""
