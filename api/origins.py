"""Which web pages and which names a request may come by: a browser lets any page of any site send some."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from symadj.api import problems
from symadj.service.errors import ForeignOriginError, MisdirectedError
from symadj.service.settings import Settings

__all__ = ["RefuseForeignRequests", "allowed_hosts", "is_loopback"]

# They change nothing, and a page of another origin can't read what is answered.
READS = frozenset({"GET", "HEAD", "OPTIONS"})
# What a browser says of a request of the API's own page, and of one that a user made without any page.
OWN_SITES = frozenset({"same-origin", "none"})


class RefuseForeignRequests:
    """ASGI middleware: refuses requests that a web page of somebody else makes with a browser of this machine.

    Where no keys are asked for, a request counts as the user's because it comes from the user's machine, so the name by
    which the API was called must be one of this machine: a page whose own name was made to point here (DNS rebinding)
    is of the same origin to a browser. With keys a browser adds none by itself, and the name is the proxy's.

    A page of another origin may send requests, though it can't read the answers: those that would change something are
    refused, with keys and without.

    Args:
        allowed_hosts: names without a port; None: any.
    """

    def __init__(self, app: ASGIApp, allowed_hosts: Collection[str] | None) -> None:
        self._app = app
        self._allowed_hosts = allowed_hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it before its body is read."""
        if scope["type"] == "http":
            request = Request(scope)
            error = self._misdirected(request) or _foreign(request)
            if error is not None:
                await problems.answer(request, error)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _misdirected(self, request: Request) -> MisdirectedError | None:
        given = request.headers.get("host", "")
        name = _name(given)
        if self._allowed_hosts is None or is_loopback(name) or name in self._allowed_hosts:
            return None
        return MisdirectedError(
            f"Host is {given!r}: without keys the API answers to localhost and to loopback addresses alone, and to "
            "the names in SYMADJ_ALLOWED_HOSTS (separated by commas), so that no web page reaches it by a name of its "
            "own. Call it by http://127.0.0.1, or add the name there"
        )


def allowed_hosts(settings: Settings) -> frozenset[str] | None:
    """Return the names, beside this machine's own, by which the API may be called; None: any."""
    if settings.auth == "keys":
        return None
    # Runs on other machines call it by the one that they are told.
    names = (*(settings.allowed_hosts or "").split(","), urlsplit(settings.api_url).netloc)
    return frozenset(_name(name.strip()) for name in names if name.strip())


def _foreign(request: Request) -> ForeignOriginError | None:
    if request.method in READS:
        return None
    site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
    if site is not None:
        # Only browsers set it, no page can, and a proxy that changes Host does not disturb it.
        given, is_own = f"Sec-Fetch-Site is {site!r}", site in OWN_SITES
    else:
        given = f"Origin is {origin!r}, and Host {request.headers.get('host')!r}"
        is_own = origin is None or _same_place(urlsplit(origin).netloc, request.headers.get("host", ""))
    if is_own:
        return None
    return ForeignOriginError(
        f"{given}: a web page of another origin may not change anything here. Use the page /docs of this API, the "
        "command line, or a client that is no browser"
    )


def _same_place(netloc: str, host: str) -> bool:
    """Return whether two of ``name`` or ``name:port`` are the same; the port that a scheme implies may be left out."""
    return bool(netloc) and _without_default_port(netloc) == _without_default_port(host)


def _without_default_port(netloc: str) -> str:
    return netloc.lower().removesuffix(":80").removesuffix(":443")


def _name(netloc: str) -> str:
    """Return the name in ``name:port``, in lower case, without a dot at its end and without brackets."""
    try:
        return (urlsplit(f"//{netloc}").hostname or "").removesuffix(".")
    except ValueError:  # half of a pair of brackets
        return ""


def is_loopback(name: str) -> bool:
    """Return whether the name of a host is one of this machine alone."""
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
