"""Audit's settings: the writer's address."""

import pytest

from causeloop_audit.models import WRITER
from causeloop_audit.settings import AuditSettings
from causeloop_common.settings import SettingsError, role_password

SECRET = "a-secret-of-the-installation-long-enough"
SAFE = {
    "CAUSELOOP_ENV": "production",
    "JWT_SECRET": SECRET,
    "NATS_URL": "tls://nats.example.com",
    "NATS_NKEY_SEED_AUDIT": "SUAKYRHVIOREXV7EUZTBHUHL7NUMHPMAS7QMDU3GTIUWEI5LDNOXD43IZY",
    "DATABASE_URL": "postgresql://db.example.com/causeloop?sslmode=verify-full",
}


class TestWriter:
    def test_has_the_same_database_and_a_role_of_its_own(self) -> None:
        password = role_password(SECRET.encode(), "causeloop_audit_writer")

        assert AuditSettings.load("audit", SAFE).dsn(WRITER) == (
            f"postgresql://causeloop_audit_writer:{password}@db.example.com/causeloop?sslmode=verify-full"
        )

    def test_an_address_of_its_own_goes_before(self) -> None:
        own = {"DATABASE_URL_AUDIT_WRITER": "postgresql:///writer"}

        assert AuditSettings.load("audit", {**SAFE, **own}).dsn(WRITER) == "postgresql:///writer"

    def test_production_refuses_one_that_leaves_the_host_in_clear(self) -> None:
        own = {"DATABASE_URL_AUDIT_WRITER": "postgresql://db.example.com/causeloop"}

        with pytest.raises(SettingsError, match="DATABASE_URL_AUDIT_WRITER leaves this host without TLS"):
            AuditSettings.load("audit", {**SAFE, **own})
