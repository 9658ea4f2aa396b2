"""The addresses on which an API may listen, with and without keys."""

from __future__ import annotations

import ipaddress
import socket

from symadj.service.settings import Settings

__all__ = ["ExposedError", "check_exposure"]


class ExposedError(Exception):
    """An API without keys would be open to others; the message says what to do."""


def check_exposure(settings: Settings, host: str, *, insecure: bool) -> None:
    """Let an API that asks for no keys listen on this machine only, unless ``insecure`` says that others may come.

    Raises:
        ExposedError: they could.
        SettingsError: it asks for keys, and has no secret to check them with.
    """
    if settings.auth == "keys":
        settings.required_key_secret()
    elif not insecure and not _is_loopback(host):
        raise ExposedError(
            f"{host!r} is not an address of this machine alone, and SYMADJ_AUTH is none: anyone who reaches "
            "it could do everything. Set SYMADJ_AUTH=keys (docs/service.md, API keys), listen on 127.0.0.1, or say "
            "--insecure if the network keeps others out"
        )


def _is_loopback(host: str) -> bool:
    try:
        found = socket.getaddrinfo(host or None, 0, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError:
        return True  # not an address: listening there will fail and say so
    return all(ipaddress.ip_address(str(address[0]).partition("%")[0]).is_loopback for *_, address in found)
