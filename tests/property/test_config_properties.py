from __future__ import annotations

from dataclasses import dataclass, field

import yaml
from hypothesis import given
from hypothesis import strategies as st

from ureca.config import from_plain, load_config, to_plain
from ureca.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Inner:
    size: int = 3
    rate: float = 0.5
    names: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Outer:
    on: bool = True
    word: str | None = None
    inner: Inner = field(default_factory=Inner)
    table: dict[str, Inner] = field(default_factory=dict)


finite = st.floats(allow_nan=False, allow_infinity=False)
texts = st.text(alphabet=st.characters(codec="ascii", min_codepoint=32), max_size=12)
inners = st.builds(
    Inner,
    size=st.integers(-(2**62), 2**62),
    rate=finite,
    names=st.lists(texts, max_size=3).map(tuple),
)
outers = st.builds(
    Outer,
    on=st.booleans(),
    word=st.none() | texts,
    inner=inners,
    table=st.dictionaries(texts, inners, max_size=3),
)


@given(outers)
def test_configs_round_trip_through_plain_data_and_yaml(config):
    assert from_plain(Outer, to_plain(config)) == config
    assert from_plain(Outer, yaml.safe_load(yaml.safe_dump(to_plain(config)))) == config


@given(finite)
def test_numbers_round_trip_through_overrides(value):
    assert load_config(Outer, None, [f"inner.rate={value!r}"]).inner.rate == value


plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | texts,
    lambda inside: (
        st.lists(inside, max_size=3)
        | st.dictionaries(
            st.sampled_from(["on", "word", "inner", "table", "size", "rate", "names", "x"]),
            inside,
            max_size=4,
        )
    ),
    max_leaves=10,
)


@given(
    st.dictionaries(st.sampled_from(["on", "word", "inner", "table", "zone"]), plain, max_size=4)
)
def test_any_data_is_a_config_or_a_config_error(data):
    try:
        config = from_plain(Outer, data)
    except ConfigError:
        return
    assert isinstance(config, Outer)


@given(st.text(max_size=60))
def test_any_override_is_a_config_or_a_config_error(text):
    try:
        load_config(Outer, None, [text])
    except ConfigError:
        return
