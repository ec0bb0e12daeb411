"""Identifies a caller: loopback, a token, a session's cookie, or a name from a trusted reverse proxy.

The guard asks for a `Person` at every request. Tokens are compared by digest in constant time. A proxy's header counts only
from addresses that the operator trusts.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from http.cookies import CookieError, SimpleCookie
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import unquote

from chestmap.errors import BadInput, Refused
from chestmap.serving.http.sessions import Sessions

COOKIE = "chestmap_session"
SHORTEST_TOKEN = 16
LONGEST_NAME = 64


@dataclass(frozen=True)
class Person:
    """Who asks, and whether with the rights of an administrator."""

    name: str
    admin: bool = False


@dataclass(frozen=True)
class Access:
    """`tokens` maps the sha256 of a token to its owner; where there are none, and no proxy is trusted, loopback is enough."""

    tokens: Mapping[bytes, Person] = field(default_factory=dict)
    proxy_header: str = ""
    proxies: frozenset[str] = frozenset({"127.0.0.1", "::1"})
    sessions: Sessions = field(default_factory=Sessions)

    @property
    def open(self) -> bool:
        """Nobody has to show anything. Only for loopback: `cli/serve.py` sees to that."""
        return not self.tokens and not self.proxy_header

    def person(self, headers: Mapping[str, str], peer: str) -> Person | None:
        """None for somebody who may not come in. `headers` have small letters."""
        if self.open:
            return Person(_name(headers.get("x-reviewer", "")) or "reviewer", admin=True)
        if self.proxy_header and peer in self.proxies and (name := _name(headers.get(self.proxy_header.lower(), ""))):
            return Person(name)
        scheme, _, token = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            return self._owner(sha256(token.strip().encode("utf-8", "surrogateescape")).digest())
        return self._of_session(headers.get("cookie", ""))

    def _owner(self, digest: bytes) -> Person | None:
        found = [person for known, person in self.tokens.items() if hmac.compare_digest(known, digest)]
        return found[0] if found else None

    def session(self, token: str) -> str | None:
        """The cookie's value for the owner of a token. It ends with the token, with signing out, and after half a day."""
        digest = sha256(token.strip().encode("utf-8", "surrogateescape")).digest()
        return None if self._owner(digest) is None else self.sessions.begin(digest)

    def sign_out(self, headers: Mapping[str, str]) -> None:
        """The session that a request carries is over, wherever its cookie was copied to."""
        if value := _cookie(headers.get("cookie", "")):
            self.sessions.end(value)

    def _of_session(self, cookies: str) -> Person | None:
        """The owner of the token with which the session began, as long as that token is in the file."""
        value = _cookie(cookies)
        digest = self.sessions.token_of(value) if value else None
        return self._owner(digest) if digest else None


def _cookie(cookies: str) -> str:
    try:
        morsel = SimpleCookie(cookies).get(COOKIE)
    except CookieError:
        return ""
    return morsel.value if morsel else ""


def _name(coded: str) -> str:
    """A person's name as a header carries it, percent-encoded."""
    name = "".join(letter for letter in unquote(coded, errors="replace") if letter.isprintable()).strip()
    return name[:LONGEST_NAME]


def secret_text(path: Path, expected: str) -> str:
    """A file that only its owner may read."""
    try:
        if path.stat().st_mode & 0o077:
            raise Refused(f"{path}: others may read it; chmod 600 {path}")
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{path}: cannot be read ({type(error).__name__}); expected {expected}") from None


def read_tokens(path: Path) -> dict[bytes, Person]:
    """NAME TOKEN [admin], one a line; # begins a remark. Only the tokens' digests are kept."""
    tokens: dict[bytes, Person] = {}
    for number, line in enumerate(secret_text(path, "lines of NAME TOKEN [admin]").splitlines(), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if len(words) not in {2, 3} or (len(words) == 3 and words[2] != "admin"):
            raise BadInput(f"{path}:{number}: expected NAME TOKEN, or NAME TOKEN admin")
        if len(words[1]) < SHORTEST_TOKEN:
            raise BadInput(
                f"{path}:{number}: token of {len(words[1])} letters; at least {SHORTEST_TOKEN}: openssl rand -hex 16"
            )
        tokens[sha256(words[1].encode()).digest()] = Person(_name(words[0]), admin=len(words) == 3)
    if not tokens:
        raise BadInput(f"{path}: holds no token; expected lines of NAME TOKEN [admin]")
    return tokens


def is_loopback(host: str) -> bool:
    """Whether an address to listen on can be reached from this machine only; names other than localhost may be anything."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
