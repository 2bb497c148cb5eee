"""Checks that a bundle gives the same captions as its checkpoint."""
