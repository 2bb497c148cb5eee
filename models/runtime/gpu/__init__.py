"""Decodes with fixed shapes and addresses, as CUDA graphs need it. No device has run it yet."""
