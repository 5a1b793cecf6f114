"""Server versions, and the sentences about connections that were not made."""

import asyncpg
import pytest
from asyncpg.serverversion import split_server_version_string
from asyncpg.types import ServerVersion

from causeloop_common.postgres import Way, outdated, reason
from causeloop_common.settings import SettingsError


class Versioned:
    """As much of a connection as is asked for its server's version."""

    def __init__(self, version: str) -> None:
        self._version = split_server_version_string(version)

    def get_server_version(self) -> ServerVersion:
        return self._version


class TestVersion:
    @pytest.mark.parametrize(("version", "least"), [("16.9", "16.10"), ("17.5 (Debian 17.5-1)", "17.6")])
    def test_with_a_known_hole_is_named(self, version: str, least: str) -> None:
        assert f"update it to {least} or later" in (outdated(Versioned(version)) or "")

    @pytest.mark.parametrize("version", ["16.10", "16.14", "17.6", "18.0"])
    def test_without_one_is_fine(self, version: str) -> None:
        assert outdated(Versioned(version)) is None

    async def test_before_16_is_refused(self) -> None:
        """D9: migrate and services name the version that is needed."""
        way = Way("postgresql:///x", "test")
        with pytest.raises(SettingsError, match="PostgreSQL 15: version 16 or later is needed"):
            await way._examine(Versioned("15.13"))


class TestReason:
    @pytest.mark.parametrize(
        ("error", "sentence"),
        [
            (asyncpg.InvalidPasswordError("x"), "The server refuses the password."),
            (asyncpg.InvalidCatalogNameError("x"), "no database of this name"),
            (asyncpg.TooManyConnectionsError("x"), "no connection left"),
            (asyncpg.ProtocolViolationError("unsupported startup parameter: y"), "unsupported startup parameter: y."),
            (ConnectionRefusedError(), "Nothing listens at its address."),
            (TimeoutError(), "It does not answer in time."),
            (OSError("secret"), "It cannot be reached: OSError."),
        ],
    )
    def test_is_a_sentence(self, error: BaseException, sentence: str) -> None:
        """D10: more than an error's class."""
        assert sentence in reason(error)
