"""Who may see the page."""

from __future__ import annotations

import pytest

from ureca.errors import ConfigError
from ureca.node.viewer.access import Guard

OWN = "http://127.0.0.1:8600"
TOKEN = "a-token-of-32-characters-or-so-00"


@pytest.mark.parametrize("target", ["/", "/viewer.css", "/nowhere"])
@pytest.mark.parametrize("host", ["127.0.0.1:8600", "localhost:8600", "[::1]:8600", "localhost"])
def test_loopback_is_open_to_this_host(target, host):
    assert Guard("127.0.0.1").refusal(target, host, None) is None


@pytest.mark.parametrize(
    "host", ["evil.example:8600", "evil.example", "127.0.0.1.evil.example", "", None, "a b", "a@b"]
)
@pytest.mark.parametrize("target", ["/", "/live", "/viewer.css"])
def test_a_name_that_was_pointed_here_is_refused(target, host):
    refused = Guard("127.0.0.1").refusal(target, host, f"http://{host}")
    assert refused is not None
    assert refused.status == 403


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        (OWN, True),
        (None, False),
        ("null", False),
        ("http://evil.example", False),
        ("http://127.0.0.1:9999", False),
        ("file://127.0.0.1:8600", False),
    ],
)
def test_only_our_own_page_may_connect(origin, allowed):
    refused = Guard("127.0.0.1").refusal("/live", "127.0.0.1:8600", origin)
    assert (refused is None) == allowed


@pytest.mark.parametrize("target", ["/", "/live"])
@pytest.mark.parametrize(
    ("query", "allowed"),
    [
        ("", False),
        ("?token=", False),
        ("?token=wrong", False),
        (f"?token={TOKEN[:-1]}", False),
        (f"?token=%C3%BC{TOKEN}", False),
        (f"?token={TOKEN}", True),
        (f"?x=1&token={TOKEN}", True),
    ],
)
def test_off_loopback_the_token_is_needed(target, query, allowed):
    guard = Guard("0.0.0.0", TOKEN)
    refused = guard.refusal(target + query, "robot:8600", "http://robot:8600")
    assert (refused is None) == allowed


def test_too_many_fields_are_no_crash():
    guard = Guard("0.0.0.0", TOKEN)
    target = "/?" + "&".join(f"a{n}=1" for n in range(100)) + f"&token={TOKEN}"
    assert guard.refusal(target, "robot:8600", None).status == 400


@pytest.mark.parametrize(("target", "origin"), [("//[x", OWN), ("/live", "http://[x")])
def test_what_is_no_address_is_refused(target, origin):
    assert Guard("127.0.0.1").refusal(target, "localhost", origin).status == 400


def test_a_token_is_made_up_where_one_is_needed():
    made = {Guard("0.0.0.0").token for _ in range(3)}
    assert len(made) == 3
    assert all(len(token) >= 32 for token in made)
    assert Guard("127.0.0.1").token == ""
    assert Guard("127.0.0.1", TOKEN).refusal("/", "localhost", None) is not None


def test_a_short_token_is_refused():
    with pytest.raises(ConfigError, match="16"):
        Guard("0.0.0.0", "short")
