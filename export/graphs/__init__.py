"""Exports a checkpoint as graphs: tracing, quantisation, and the files of each runtime."""
