"""`causeloop audit recover`: with the settings of the whole installation, or not at all."""

import argparse
from pathlib import Path

import pytest

from causeloop_cli.audit import recover
from causeloop_common.contracts.topology import OWNERS
from causeloop_common.settings import SettingsError


@pytest.mark.parametrize("without", OWNERS)
@pytest.mark.parametrize("open_epoch", [False, True])
def test_without_one_of_the_services_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, without: str, open_epoch: bool
) -> None:
    """P6: events may wait in an outbox that nobody looked at, and an epoch cannot be undone."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DATABASE_URL", raising=False)
    for name in OWNERS:
        if name != without:
            monkeypatch.setenv(f"CAUSELOOP_KEYS_{name.upper()}", "keys")
    with pytest.raises(SettingsError, match=f"{without} is not in the environment"):
        recover.main(argparse.Namespace(workspace="ws_1", open_epoch=open_epoch, reason="restored"))
