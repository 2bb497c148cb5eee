"""Word lists of the measures: plurals, function words, synonyms of COCO classes, people, colours.

They are the lists of the project's scorer, so a figure means the same wherever it is printed. A
missing word makes a caption wrong, never right.
"""

from __future__ import annotations

from typing import Final


def _split(text: str) -> frozenset[str]:
    return frozenset(text.split())


IRREGULAR: Final[dict[str, str]] = dict(
    pair.split(":")
    for pair in _split(
        "men:man women:woman people:person children:child feet:foot teeth:tooth leaves:leaf "
        "knives:knife mice:mouse geese:goose wolves:wolf scarves:scarf shelves:shelf lives:life "
        "puppies:puppy persons:person"
    )
)
"""Plural to singular where cutting an "s" is wrong."""

PAIRED: Final = _split(
    "pants jeans shorts glasses sunglasses goggles clothes scissors skis trunks overalls pajamas"
)
"""Plural words for one thing: they say nothing about how many there are."""

ENDS_IN_S: Final = PAIRED | _split(
    "grass dress glass bus this his its is was as has gas canvas tennis christmas lens class moss "
    "cross mattress cactus campus circus"
)
"""Words whose last "s" belongs to them."""

DETERMINERS: Final = _split(
    "a an the his her its their my your our this that these those some several many few two three "
    "four five six seven eight nine ten one another other both all each every various multiple"
)
COUNTS_ABOVE_ONE: Final = _split(
    "some several many few two three four five six seven eight nine ten both all various multiple "
    "these those"
)

PHRASE_ENDS: Final = _split(
    "of in on at with by for from to into onto over under near behind beside between above below "
    "through across along around against off out up down toward towards inside outside next "
    "wearing holding carrying riding is are was were be being has have who that which while as and "
    "or but playing standing sitting running walking jumping looking during dressed covered filled "
    "made"
)
"""Words before which a noun phrase has ended."""

PLAIN_COLOURS: Final = _split(
    "red blue green yellow white black brown orange pink purple gray grey tan gold silver beige "
    "maroon"
)
ADJECTIVES: Final = PLAIN_COLOURS | _split(
    "blond blonde small little large big tall short long young old dark light striped spotted "
    "older younger wet dirty"
)
"""Words that are no head noun when they stand last, and that "and" may join."""

COLLECTIVES: Final = _split(
    "group pair couple crowd bunch team row line lot number set piece stack pile bowl cup glass "
    "bottle plate part side front back top kind type body variety flock herd pack"
)
"""In "a group of dogs" both words are accepted."""

MANY_OF: Final = _split("group couple crowd bunch team row lot number variety flock herd pack")

PERSON_WORDS: Final = _split(
    "man woman boy girl person child kid baby guy lady player skier surfer snowboarder "
    "skateboarder rider adult toddler male female skater batter pitcher catcher worker chef "
    "teenager gentleman couple friend athlete"
)

SYNONYMS: Final[dict[str, tuple[str, ...]]] = {
    "person": tuple(sorted(PERSON_WORDS)),
    "couch": ("sofa",),
    "tv": ("television", "monitor", "screen"),
    "cell phone": ("phone", "cellphone"),
    "motorcycle": ("motorbike", "bike"),
    "bicycle": ("bike",),
    "airplane": ("plane", "jet", "aircraft"),
    "dining table": ("table",),
    "potted plant": ("plant",),
    "wine glass": ("glass",),
    "sports ball": ("ball",),
    "hot dog": ("hotdog",),
    "teddy bear": ("teddy", "bear"),
    "baseball bat": ("bat",),
    "baseball glove": ("glove", "mitt"),
    "tennis racket": ("racket", "racquet"),
    "hair drier": ("dryer", "drier"),
    "traffic light": ("light", "stoplight"),
    "fire hydrant": ("hydrant",),
    "stop sign": ("sign",),
    "parking meter": ("meter",),
    "handbag": ("bag", "purse"),
    "suitcase": ("luggage", "bag"),
    "donut": ("doughnut",),
    "mouse": ("mouse",),
    "remote": ("controller", "control"),
    "refrigerator": ("fridge",),
    "laptop": ("computer",),
    "boat": ("ship", "canoe", "kayak"),
    "cow": ("bull", "cattle", "calf"),
    "dog": ("puppy",),
    "cat": ("kitten",),
    "sheep": ("lamb",),
    "car": ("suv", "taxi", "vehicle"),
    "truck": ("pickup", "vehicle"),
}
"""Other accepted names of COCO classes."""

MALE: Final = _split("man boy guy male gentleman")
FEMALE: Final = _split("woman girl lady female")
GROWN: Final = _split("man woman guy lady gentleman adult")
CHILD: Final = _split("boy girl child kid baby toddler")

GARMENTS: Final = _split(
    "shirt t-shirt tshirt jacket coat hat cap dress skirt pants jeans shorts shoe boot sock glove "
    "suit uniform sweater vest helmet scarf tie outfit clothes top jersey hoodie sweatshirt blouse "
    "costume robe swimsuit bikini trunks overalls sunglasses glasses goggles"
)
