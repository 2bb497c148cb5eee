"""Renders images and clips of synthetic scenes."""
