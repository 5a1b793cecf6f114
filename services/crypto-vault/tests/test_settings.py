"""The vault's settings: its master keys."""

import base64
import hashlib

import pytest

from causeloop_common.settings import SettingsError
from causeloop_vault.settings import VaultSettings

ONE, TWO = (base64.b64encode(hashlib.sha256(name).digest()).decode() for name in (b"one", b"two"))


class TestMasterKeys:
    def test_are_a_list_whose_first_one_seals(self) -> None:
        settings = VaultSettings.load("vault", {"CAUSELOOP_MASTER_KEY": f"{ONE}, {TWO}"})

        assert settings.keys() == [base64.b64decode(ONE), base64.b64decode(TWO)]

    @pytest.mark.parametrize("environment", ["development", "production"])
    def test_without_one_the_vault_does_not_start(self, environment: str) -> None:
        with pytest.raises(SettingsError, match="CAUSELOOP_MASTER_KEY: it is not set"):
            VaultSettings.load("vault", {"CAUSELOOP_ENV": environment, "CAUSELOOP_MASTER_KEY": ""})

    @pytest.mark.parametrize(
        ("keys", "says"),
        [
            ("secret", "Key 1 of CAUSELOOP_MASTER_KEY is not base64"),
            (f"{ONE},{ONE[:-4]}", "Key 2 of CAUSELOOP_MASTER_KEY has 30 bytes where 32 are needed"),
            (f"{ONE},", "Key 2 of CAUSELOOP_MASTER_KEY has 0 bytes where 32 are needed"),
        ],
    )
    def test_that_are_none_are_refused_by_their_number_and_not_shown(self, keys: str, says: str) -> None:
        with pytest.raises(SettingsError, match=says) as refused:
            VaultSettings.load("vault", {"CAUSELOOP_MASTER_KEY": keys})

        assert ONE[:20] not in str(refused.value)

    def test_are_never_printed(self) -> None:
        settings = VaultSettings.load("vault", {"CAUSELOOP_MASTER_KEY": ONE})

        assert ONE not in f"{settings!r} {settings} {settings.model_dump_json()}"
