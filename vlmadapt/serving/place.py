"""Where a server listens: the socket, its addresses, and who may ask."""

from __future__ import annotations

import hmac
import ipaddress
import secrets
import socket
from collections.abc import Mapping
from dataclasses import dataclass

from vlmadapt.errors import InputError

HIGHEST_PORT = 65535
WAITING = 32  # connections


@dataclass(frozen=True)
class Place:
    """A listening socket. ``token`` is asked for everywhere but at this computer's own addresses: None there."""

    listening: socket.socket
    host: str
    port: int
    token: str | None

    @classmethod
    def take(cls, host: str, port: int) -> Place:
        """Listen. Raises :class:`InputError` for a port that is taken, not allowed or out of range, and an address
        that is not this computer's."""
        if not 0 <= port <= HIGHEST_PORT:
            raise InputError(f"port is {port}: give one from 1 to {HIGHEST_PORT}, or 0 for a free one.")
        try:
            kind, _, _, _, address = socket.getaddrinfo(
                host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE if host else 0
            )[0]
        except (OSError, UnicodeError) as error:
            raise InputError(f"host is {host!r}, which is no address: give one of this computer.") from error
        listening = socket.socket(kind, socket.SOCK_STREAM)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(address)
            listening.listen(WAITING)
        except PermissionError as error:
            listening.close()
            raise InputError(f"port is {port}, which this user may not listen at: give one above 1023.") from error
        except OSError as error:
            listening.close()
            if getattr(error, "errno", None) is not None and "in use" in str(error):
                raise InputError(
                    f"port is {port}, which another program on {host} listens at: give another, or 0 for a free one."
                ) from error
            raise InputError(f"host is {host!r}, where nothing can listen here ({error.strerror}).") from error
        own = ipaddress.ip_address(str(address[0]).partition("%")[0]).is_loopback
        return cls(listening, host, listening.getsockname()[1], None if own else secrets.token_urlsafe(24))

    @property
    def url(self) -> str:
        """What to open in a browser on this computer."""
        host = self.host
        if _address(host) is not None and ipaddress.ip_address(host).is_unspecified:
            host = "127.0.0.1" if "." in host else "::1"
        bracketed = f"[{host}]" if ":" in host else host
        query = "" if self.token is None else f"?token={self.token}"
        return f"http://{bracketed}:{self.port}/{query}"

    def knows(self, host: str) -> bool:
        """Whether a Host header names this place. A foreign name that was made to lead here (DNS rebinding) does not;
        an address cannot be made to lead anywhere."""
        name, port = _split(host)
        if port != self.port or not name:
            return False
        if self.token is None:
            address = _address(name)
            return name == "localhost" or name == self.host.lower() or (address is not None and address.is_loopback)
        return name in {"localhost", self.host.lower(), socket.gethostname().lower()} or _address(name) is not None

    def refusal(self, headers: Mapping[str, str], given_token: str | None) -> tuple[int, str] | None:
        """Status and sentence for a request that is not to be answered, None for one that is."""
        host = headers.get("host", "")
        if not self.knows(host):
            return 403, "the Host header names another place than this server: open the address it printed."
        origin = headers.get("origin")
        if origin is not None and origin.lower() != f"http://{host.lower()}":
            return 403, "the request comes from another page: open the address the server printed."
        if headers.get("sec-fetch-site", "none") not in ("same-origin", "none"):
            return 403, "the request comes from another page: open the address the server printed."
        return None if self.admits(given_token) else (401, "the token is missing or wrong: open the address printed.")

    def admits(self, token: str | None) -> bool:
        if self.token is None:
            return True
        return token is not None and hmac.compare_digest(token.encode("utf-8", "replace"), self.token.encode())


def _split(host: str) -> tuple[str, int]:
    """Name and port of a Host header: ``[::1]:80`` too. Without a port it is HTTP's own, 80."""
    host = host.lower()
    if host.startswith("["):
        name, _, rest = host[1:].partition("]")
        port = rest.removeprefix(":")
    else:
        name, _, port = host.partition(":")
    return name, int(port) if port.isascii() and port.isdigit() and len(port) <= 5 else 80 if not port else -1


def _address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(name)
    except ValueError:
        return None
