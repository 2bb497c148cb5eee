"""Trains a captioner: one recipe in one readable file (torch)."""
