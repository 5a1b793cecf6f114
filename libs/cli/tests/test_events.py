"""`causeloop events reconcile`: for whom, and since when."""

import argparse
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from causeloop_cli import events
from causeloop_common.settings import SettingsError


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
