"""Analyses the words of captions: n-grams, lexicon and phrase parsing."""
