"""The identity of regions over frames."""
