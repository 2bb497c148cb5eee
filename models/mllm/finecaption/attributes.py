"""Instructions for attributes of regions: FineCaption's first task (attribute-aware captions).

The names are those of CompositionCap that are known, in one word each. Two of them (`body_shape`,
`skin`) have no instruction here, on purpose; four of its eighteen names are known to nobody
outside. `prompt.attributes` of a configuration may name any attribute. The wording is ours.
"""

from __future__ import annotations

INSTRUCTIONS: dict[str, str] = {
    "category": "What is this region? Name it.",
    "colour": "Describe the colour of this region.",
    "material": "Describe the material of this region.",
    "shape": "Describe the shape of this region.",
    "location": "Describe where this region is relative to other things.",
    "interaction": "Describe what this region does with other things.",
    "pose": "Describe the pose and gesture of this region.",
    "clothing": "Describe the clothing, shoes and accessories of this region.",
    "hair": "Describe the hair of this region.",
    "expression": "Describe the facial expression of this region.",
    "age": "Describe the age range of this region.",
    "viewing_angle": "Describe from which angle this region is seen.",
}
"""By attribute."""
