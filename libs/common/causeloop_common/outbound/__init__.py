"""The one way out of a service to the world outside of the installation: HTTP, and TLS connections.

    client = application.outbound.operators("identity_provider", Limits(total=3))
    answer = await client.fetch("GET", url)

There are two tiers of destinations. `operators`: what the operator configured; it may be private, and it is never a
metadata service. `tenants`: what somebody in a workspace named; it is public, or in a range that a setting opens.

    address ─► one spelling ─► one look-up ─► every address checked ─► connection to that address
            ─► TLS verified for the name ─► request ─► answer, its bytes counted as they arrive and as they unpack

No redirect is followed, nothing is read from the environment (proxies and authorities are settings), no connection
serves twice. Every wait is bounded, and all of them together. An error is a sentence that names cause and remedy.

This room alone imports an HTTP client (import rule `http`).
"""

from causeloop_common.outbound.client import Answer, Client, Connection, Outbound
from causeloop_common.outbound.errors import Refused, Unanswered, Unreachable
from causeloop_common.outbound.limits import Limits
from causeloop_common.outbound.resolver import Lookup, system_lookup

__all__ = [
    "Answer",
    "Client",
    "Connection",
    "Limits",
    "Lookup",
    "Outbound",
    "Refused",
    "Unanswered",
    "Unreachable",
    "system_lookup",
]
