"""A connection that reads whatever others may publish, and that is over TLS where its address demands it.

nats-py ends its reading when a subject or a status is not UTF-8 or a control line has an unusual space, and takes a
header of an ordinary message for a status of the server. Each would let one service stop another by one message. So
such bytes are replaced, and the server's statuses are believed on inboxes alone, where nobody but the server and the
one who was asked can publish.

nats-py uses TLS where the server asks for it. An attacker on the way could answer that it does not, and would get all
in clear; so to a `tls://` address every connection begins TLS, whatever the server answers.
"""

import re
from collections.abc import Awaitable, Callable
from typing import Any, cast

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.api import Header
from nats.protocol import parser

_SUBJECTS = rb"[ \t]+([^ \t\r\n]+)[ \t]+(\d+)[ \t]+(([^ \t\r\n]+)[ \t]+)?"
parser.MSG_RE = re.compile(rb"\AMSG" + _SUBJECTS + rb"(\d+)\r\n")
parser.HMSG_RE = re.compile(rb"\AHMSG" + _SUBJECTS + rb"(\d+)[ \t]+(\d+)\r\n")
"""The server separates the parts of a line by these spaces; a subject may have the others that Python's `\\s` has."""

_INBOX = b"_INBOX."
_STATUS = (Header.STATUS.value, Header.DESCRIPTION.value)

Headers = dict[str, str] | None

_read_info = Client._process_info


async def _process_info(client: Client, info: dict[str, Any], initial_connection: bool = False) -> None:
    """Read a server's INFO. The first one on a connection decides about its TLS."""
    if initial_connection and client._current_server is not None and client._current_server.uri.scheme == "tls":
        info["tls_required"] = True
    await _read_info(client, info, initial_connection)


cast(Any, Client)._process_info = _process_info


def tolerate(client: Client) -> None:
    """Have this connection read on, whatever comes. Call before its first subscription."""
    read: Callable[[bytes], Awaitable[Headers]] = client._process_headers

    async def process_headers(block: bytes) -> Headers:
        try:
            return await read(block)
        except (ValueError, IndexError):
            return {}

    def build_message(sid: int, subject: bytes, reply: bytes, data: bytes, headers: Headers) -> Msg:
        if headers and not subject.startswith(_INBOX):
            for name in _STATUS:
                headers.pop(name, None)
        return client.msg_class(
            _client=client, _sid=sid, subject=_text(subject), reply=_answerable(reply), data=data, headers=headers
        )

    unchecked = cast(Any, client)
    unchecked._process_headers, unchecked._build_message = process_headers, build_message


def _text(subject: bytes) -> str:
    """The subject's text; a NUL, which PostgreSQL cannot hold, as other bytes that are no text."""
    return subject.decode(errors="backslashreplace").replace("\0", "\\x00")


def _answerable(reply: bytes) -> str:
    """The subject of the reply; none where it cannot be written as it came."""
    try:
        return reply.decode()
    except UnicodeDecodeError:
        return ""
