"""Detectors and instance segmenters of other projects behind the `Segmenter` protocol."""
