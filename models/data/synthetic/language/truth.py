"""The truth of a view, region by region. Captions are written and judged from this record.

The file `scenes-<split>.jsonl.gz` holds one `ViewTruth` a line. Nothing here needs MuJoCo.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal

from ureca.errors import SourceError

NodeType = Literal["object", "part", "group", "background"]
GroupType = Literal["", "set", "stack", "holding"]

TRUE_MARGIN: Final = 0.3
"""A relation counts as true from this margin on; 1.0 is the margin captions are written with."""


@dataclass(frozen=True, kw_only=True)
class Relation:
    """This node has this relation to the anchor (a node name; "" is the image itself).

    margin is in units of the clear margin: 1 and more is plain to everybody, below
    TRUE_MARGIN nobody would say it, below 0 it is false.
    """

    name: str
    anchor: str
    margin: float


@dataclass(frozen=True, kw_only=True)
class NodeTruth:
    """All facts of one node (an item, a part, a group or a backdrop) in one view.

    nouns and part_nouns are the accepted nouns, words the true adjectives (colours, patterns,
    materials), doubtful those that only count against uniqueness, look the usual words. owner
    is a part's item, host what an item lies in or on (prep "in" or "on"), members the items of
    a group. centre is (x, y) in picture widths and heights, depth in m, pixels the visible
    ones. held_back: shows a colour-kind pair or a texture that training never shows. annotated:
    is a region of the data set.
    """

    node: str
    type: NodeType
    kind: str
    nouns: tuple[str, ...]
    look: str = ""
    words: frozenset[str] = frozenset()
    doubtful: frozenset[str] = frozenset()
    part: str = ""
    part_nouns: tuple[str, ...] = ()
    owner: str = ""
    group: GroupType = ""
    members: tuple[str, ...] = ()
    host: str = ""
    prep: str = ""
    states: frozenset[str] = frozenset()
    relations: tuple[Relation, ...] = ()
    centre: tuple[float, float] = (0.5, 0.5)
    depth: float = 0.0
    pixels: int = 0
    held_back: bool = False
    annotated: bool = True


@dataclass(frozen=True)
class ViewTruth:
    """The truth of one image; nodes by name ("o3", "o3p1", "g0", "table")."""

    image_key: str
    split: str
    nodes: dict[str, NodeTruth]

    def of_region(self, region_id: str) -> NodeTruth:
        """The node of a region id. Raises `KeyError` for a region of another view."""
        return self.nodes[region_id.removeprefix(f"{self.image_key}_")]

    def to_json(self) -> dict[str, Any]:
        """As JSON values; empty fields are left out, relations below TRUE_MARGIN too."""
        nodes = [_encode_node(node) for node in self.nodes.values()]
        return {"image_key": self.image_key, "split": self.split, "nodes": nodes}

    @classmethod
    def from_json(cls, row: Any) -> ViewTruth:  # whatever the JSON line held
        """Read back what `to_json` wrote. Raises `SourceError` naming what is missing."""
        try:
            nodes = [_decode_node(dict(one)) for one in row["nodes"]]
            return cls(row["image_key"], row["split"], {node.node: node for node in nodes})
        except (KeyError, TypeError, ValueError) as error:
            raise SourceError(
                f"not the truth of a view: {error!r}; expected image_key, split and nodes as"
                " `ureca worlds make` writes them into scenes-<split>.jsonl.gz"
            ) from error


_SETS: Final = ("words", "doubtful", "states")
_TUPLES: Final = ("nouns", "part_nouns", "members", "centre")


def _encode_node(node: NodeTruth) -> dict[str, Any]:
    row = {key: value for key, value in asdict(node).items() if value not in ("", (), frozenset())}
    for key in _SETS:
        if key in row:
            row[key] = sorted(row[key])
    if node.relations:
        row["relations"] = [
            [one.name, one.anchor, one.margin]
            for one in node.relations
            if one.margin >= TRUE_MARGIN
        ]
    return row


def _decode_node(row: dict[str, Any]) -> NodeTruth:
    for key in _SETS:
        row[key] = frozenset(row.get(key, ()))
    for key in _TUPLES:
        row[key] = tuple(row.get(key, ()))
    row["relations"] = tuple(
        Relation(name=name, anchor=anchor, margin=float(margin))
        for name, anchor, margin in row.get("relations", ())
    )
    return NodeTruth(**row)


def read_truth(path: Path) -> Iterator[ViewTruth]:
    """Views of a `scenes-<split>.jsonl.gz`. Raises `SourceError` naming the file."""
    try:
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            for line in lines:
                yield ViewTruth.from_json(json.loads(line))
    except (OSError, ValueError) as error:
        raise SourceError(f"cannot read {path}: {error}") from error
