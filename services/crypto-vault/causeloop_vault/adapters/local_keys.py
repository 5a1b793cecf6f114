"""Master keys from the environment: they wrap the tenants' data keys and never touch the database.

The first key seals, all open, so that a key is replaced without a pause: put the new one first, rewrap, drop the old.
"""

import os
from collections.abc import Callable, Sequence

from causeloop_common.keys import derive
from causeloop_vault.domain import envelope

_PURPOSE = "data-key"


class LocalMasterKeys:
    """Wraps and unwraps data keys under keys held in this process."""

    def __init__(self, keys: Sequence[bytes], entropy: Callable[[int], bytes] = os.urandom) -> None:
        if not keys:
            raise ValueError("At least one master key is needed.")
        self._keys = {fingerprint(key): key for key in keys}
        self._first = fingerprint(keys[0])
        self._entropy = entropy

    async def wrap(self, data_key: bytes, tenant: str, version: int) -> tuple[str, str]:
        """The wrapped data key and the fingerprint of the master key that wrapped it."""
        at = envelope.place(tenant, _PURPOSE, self._first, version)
        wrapped = envelope.seal(self._keys[self._first], version, data_key, at, self._entropy(envelope.ENTROPY_BYTES))
        return wrapped, self._first

    async def unwrap(self, wrapped: str, master: str, tenant: str, version: int) -> bytes:
        """The data key; NotOpened when its master key is not here or it was wrapped for another place."""
        if master not in self._keys:
            raise envelope.NotOpened(
                f"The master key {master} that wrapped this data key is not configured. Add it to CAUSELOOP_MASTER_KEY."
            )
        return envelope.open_(self._keys[master], wrapped, envelope.place(tenant, _PURPOSE, master, version))


def fingerprint(key: bytes) -> str:
    """A name for a master key that reveals nothing about it."""
    return derive(key, "master-key/fingerprint/v1", length=8).hex()
