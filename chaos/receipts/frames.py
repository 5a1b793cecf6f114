"""The client protocol of NATS as a wire carries it: one frame after the other, in either direction.

A frame is a control line, and for PUB, HPUB, MSG and HMSG what follows it. Subjects are bytes: a server delivers
some that are not UTF-8.
"""

import asyncio
from typing import NamedTuple

LINE_BYTES = 1024 * 1024
"""A CONNECT or an INFO has one line."""

_BODY = {b"PUB": False, b"HPUB": True, b"MSG": False, b"HMSG": True}
"""The verbs with a body, and whether headers are its first part."""


class Frame(NamedTuple):
    """One frame, byte by byte as it arrived. `reply` and `headers` are empty where there are none."""

    verb: bytes
    line: bytes
    body: bytes = b""
    subject: bytes = b""
    reply: bytes = b""
    headers: bytes = b""

    @property
    def data(self) -> bytes:
        """What is to be written."""
        return self.line + self.body

    def header(self, name: bytes) -> bytes:
        """The value of a header; empty without one."""
        for line in self.headers.split(b"\r\n"):
            key, _, value = line.partition(b":")
            if key.lower() == name:
                return value.strip()
        return b""


async def read(reader: asyncio.StreamReader) -> Frame:
    """The next frame; IncompleteReadError at the end."""
    line = await reader.readuntil(b"\r\n")
    words = line.split()
    verb = words[0].upper() if words else b""
    if verb not in _BODY:
        return Frame(verb, line)
    body = await reader.readexactly(int(words[-1]) + 2)
    # PUB subject [reply] size · HPUB subject [reply] headers size · MSG subject sid [reply] size · HMSG … likewise
    sizes = 2 if _BODY[verb] else 1
    named = words[1:-sizes]
    if verb.endswith(b"MSG"):
        del named[1]
    headers = body[: int(words[-2])] if sizes == 2 else b""
    return Frame(verb, line, body, named[0], named[1] if len(named) > 1 else b"", headers)
