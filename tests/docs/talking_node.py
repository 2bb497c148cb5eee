"""A node whose captioner takes what is red for a mug and what is green for a person."""

import sys

from ureca import testing
from ureca.node.cli.run import main

WORDS = {"red": "a red mug", "green": "a person", "blue": "a blue book"}
_colour = testing.describe


def _words(image, region):
    colour = _colour(image, region)[1]
    text = WORDS.get(colour, f"a {colour} thing")
    return [*text.split(), *(["on", "a", "table"] if region.style == "long" else [])]


if __name__ == "__main__":
    testing.describe = _words
    sys.exit(main(engine_of=lambda folder: testing.ScriptedEngine()))
