"""Cursors: the positions at which lists go on, sealed by the gateway alone, bound to tenant, caller, list and filters.

AES-SIV (RFC 5297) needs no nonce: the same position gives the same cursor, and no count of messages weakens it. A
cursor that was changed, or made for another tenant, list or filter does not open.
"""

import base64
import binascii

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESSIV

from causeloop_common.errors import Malformed
from causeloop_common.keys import derive

_LONGEST = 1024


class Cursors:
    """Seals positions and opens cursors."""

    def __init__(self, key: bytes) -> None:
        self._key = AESSIV(derive(key, "cursor/v1", length=64))

    def seal(self, position: str, *scope: str) -> str:
        """The cursor of a position within a scope: tenant, list, filters."""
        sealed = self._key.encrypt(position.encode(), [part.encode() for part in scope])
        return base64.urlsafe_b64encode(sealed).rstrip(b"=").decode()

    def open(self, cursor: str, *scope: str) -> str:
        """The position; Malformed when the cursor was not sealed for this scope."""
        try:
            if len(cursor) > _LONGEST:
                raise ValueError("too long")
            raw = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
            if base64.urlsafe_b64encode(raw).rstrip(b"=").decode() != cursor:
                raise ValueError("another spelling")  # base64 leaves the last bits of a text unused
            return self._key.decrypt(raw, [part.encode() for part in scope]).decode()
        except (InvalidTag, ValueError, binascii.Error) as error:
            raise Malformed(
                "The cursor was not made for this list, filter and workspace. Start without one."
            ) from error
