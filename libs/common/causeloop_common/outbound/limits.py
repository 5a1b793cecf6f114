"""How long an exchange may take and how much it may bring."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The bounds of every exchange of one client; times in seconds, sizes in bytes."""

    total: float = 10.0
    """From the first look-up of the name to the last byte of the answer."""
    resolve: float = 2.0
    connect: float = 3.0
    """For the connection, and again for its TLS handshake."""
    idle: float = 5.0
    """Between two pieces of the answer."""
    largest: int = 1024 * 1024
    """The answer's body, unpacked; what arrives may besides have 128 KiB of headers and framing."""
    per_host: int = 8
    """Exchanges with one host at once; more wait."""
