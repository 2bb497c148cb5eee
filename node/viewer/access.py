"""Access to the page: this host, or clients with the token. Pure: requests in, refusals out."""

from __future__ import annotations

import hmac
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import parse_qs, urlsplit

from ureca.errors import ConfigError

LOOPBACK = ("127.0.0.1", "localhost", "::1")
LIVE = "/live"
"""Where the WebSocket is."""

_MIN_TOKEN = 16
_HOST = re.compile(r"(\[[0-9a-fA-F:.]+\]|[^:/@\s]+)(:\d{1,5})?")
HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
"""Sent with every file: no script, style or connection but our own, and no page around ours."""


@dataclass(frozen=True, slots=True)
class Refused:
    """Why a request is not answered: an HTTP status and one line for people."""

    status: int
    why: str


def is_loopback_name(host: str | None) -> bool:
    """Whether a `Host` header names this host: a page of another site cannot, not even after DNS
    rebinding.
    """
    found = _HOST.fullmatch(host or "")
    return found is not None and found[1].strip("[]") in LOOPBACK


class Guard:
    """Checks requests. Outside loopback, and for a viewer with a key (`has_key`), a token is
    required; a random one is the default. Other users of this host have no key.
    """

    def __init__(self, host: str, token: str | None = None, *, has_key: bool = False) -> None:
        self.is_open = host in LOOPBACK
        if token is not None and (len(token) < _MIN_TOKEN or not token.isascii()):
            raise ConfigError(
                f"--token needs at least {_MIN_TOKEN} ASCII characters; leave it out for a good one"
            )
        self.token = token or ("" if self.is_open and not has_key else secrets.token_urlsafe(24))

    def refusal(self, target: str, host: str | None, origin: str | None) -> Refused | None:
        """None when the request for `target` (path and query) may be answered.

        Files of the program are public; the page and the live data are not. `host` and `origin` are
        the headers. The check of both refuses pages of other sites, also after DNS rebinding.
        """
        try:
            return self._refusal(target, host, origin)
        except ValueError:  # an address that is none, or a query of too many fields
            return Refused(400, "not an address of this page")

    def _refusal(self, target: str, host: str | None, origin: str | None) -> Refused | None:
        parts = urlsplit(target)
        if not self._is_ours(host):
            return Refused(403, "this name is not the viewer's; use the address that it printed")
        if parts.path not in ("/", LIVE):
            return None
        if not self._has_token(parts.query):
            return Refused(
                403, "the token is missing or wrong; use the URL that ureca view printed"
            )
        if parts.path == LIVE and not _is_same(origin, host):
            return Refused(403, "only the viewer's own page may connect")
        return None

    def _is_ours(self, host: str | None) -> bool:
        return is_loopback_name(host) if self.is_open else _HOST.fullmatch(host or "") is not None

    def _has_token(self, query: str) -> bool:
        if not self.token:
            return True
        given = parse_qs(query, max_num_fields=8).get("token", [""])[0] if query else ""
        return hmac.compare_digest(given.encode(), self.token.encode())


def _is_same(origin: str | None, host: str | None) -> bool:
    """Whether a page of `origin` was itself loaded from `host`."""
    parts = urlsplit(origin or "")
    return parts.scheme in ("http", "https") and bool(host) and parts.netloc == host
