"""`causeloop events reconcile`: for whom, and since when."""

import argparse
import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from causeloop_cli import events, main
from causeloop_common.contracts.topology import OWNERS
from causeloop_common.settings import RoleSettings, SettingsError


@pytest.fixture
def reconcile(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., int]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DATABASE_URL", raising=False)

    async def nothing(*_: object) -> None:
        """No database is here."""

    monkeypatch.setattr(events, "_reconcile", nothing)

    def run(days: int, **environ: str) -> int:
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        since = datetime.now(UTC) - timedelta(days=days)
        return events.main(argparse.Namespace(action="reconcile", since=since))

    return run


def test_without_a_service_that_has_an_outbox_is_refused(reconcile: Callable[..., int]) -> None:
    with pytest.raises(SettingsError, match="No service with an outbox is in the environment, which has keys for gate"):
        reconcile(0, CAUSELOOP_KEYS_GATEWAY="keys")


@pytest.mark.parametrize(("days", "warns"), [(0, False), (2, True)])
def test_warns_of_a_time_that_outboxes_may_not_reach(
    reconcile: Callable[..., int], capsys: pytest.CaptureFixture[str], days: int, warns: bool
) -> None:
    assert reconcile(days, CAUSELOOP_KEYS_AUDIT="keys") == 0
    assert ("older ones may be gone" in capsys.readouterr().out) == warns


def test_reads_database_and_keys_alone(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """F9: auth's identity provider and the bus had to be set, to touch outboxes."""
    asked = []

    async def reconcile(dsn: str, name: str, since: datetime) -> str:
        asked.append((name, dsn.partition("@")[2]))
        return "0 events will be sent again, 0 wait already."

    monkeypatch.setattr(events, "reconcile", reconcile)
    settings = {
        "CAUSELOOP_ENV": "production",
        "DATABASE_URL": "postgresql://migrator:m@db.example.com/causeloop?sslmode=verify-full",
        "JWT_SECRET": "uWq0mXf2pLr7vBn4kTz9cYs1dGh6jEa3oIxQ",
        "NATS_URL": "http://not.a.bus",
    }
    for name in list(os.environ):
        if name.startswith(("CAUSELOOP_", "DATABASE_", "NATS_", "CLERK_")):
            monkeypatch.delenv(name)
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    assert main.main(["events", "reconcile", "--since", "2026-01-02T03:04Z"]) == 0
    assert [name for name, _ in asked] == list(OWNERS)
    assert "tenancy: 0 events will be sent again, 0 wait already." in capsys.readouterr().out


def test_names_the_service_whose_address_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SettingsError, match=r"^tenancy: DATABASE_URL_TENANCY_RELAY: "):
        RoleSettings.load("tenancy", {"DATABASE_URL_TENANCY_RELAY": "mysql://x"})


@pytest.mark.parametrize(
    ("since", "fault"),
    [("2999-01-01T00:00Z", "in the future"), ("0001-01-01T00:00+14:00", "not a time with its zone")],
)
def test_refuses_a_time_of_no_act(capsys: pytest.CaptureFixture[str], since: str, fault: str) -> None:
    with pytest.raises(SystemExit) as end:
        main.parser().parse_args(["events", "reconcile", "--since", since])
    assert end.value.code == 2
    assert fault in capsys.readouterr().err
