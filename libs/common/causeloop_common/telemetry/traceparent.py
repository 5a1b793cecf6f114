"""W3C Trace Context: the text that carries a trace through HTTP, the bus and the outbox, with or without spans.

00-<trace id, 32 hex>-<span id, 16 hex>-<flags, 2 hex; the lowest bit: sampled>
"""

import os
import re

WELL_FORMED = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")


def new_traceparent() -> str:
    """The start of a new trace, sampled."""
    return f"00-{os.urandom(16).hex()}-{os.urandom(8).hex()}-01"


def child_traceparent(parent: str) -> str:
    """The next span of a trace; a new trace when `parent` is not one (W3C Trace Context)."""
    if WELL_FORMED.fullmatch(parent) is None:
        return new_traceparent()
    return f"{parent[:36]}{os.urandom(8).hex()}{parent[52:]}"
