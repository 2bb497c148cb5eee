"""Words of captions: n-grams, lexicon and phrase parsing."""
