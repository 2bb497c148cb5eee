"""Attributes of regions: cached tokens, fitted heads, and their figures."""
