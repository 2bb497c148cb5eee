"""Where the captions of an evaluation come from."""
