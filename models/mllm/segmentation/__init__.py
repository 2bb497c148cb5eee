"""Segmenters of `transformers` behind the `Segmenter` protocol. They load torch."""
