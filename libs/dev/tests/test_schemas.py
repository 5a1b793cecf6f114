"""`causeloop schemas`: the committed documents are those of the code, and describe every message and route."""

import json
from pathlib import Path

import pytest

from causeloop_cli.main import main
from causeloop_common.contracts import topology
from causeloop_common.contracts.base import commands, events
from causeloop_dev import schemas

ROOT = Path(__file__).parents[3]


class TestCommitted:
    def test_the_committed_documents_are_what_the_code_says(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(ROOT)
        assert main(["schemas", "--check"]) == 0, "Run `make schemas`, look at what changed, and commit it."

    def test_what_differs_is_named(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.chdir(tmp_path)
        assert main(["schemas"]) == 0
        assert main(["schemas", "--check"]) == 0
        Path("docs/schemas/vault.json").unlink()
        Path("docs/openapi.json").write_text("{}")
        Path("docs/schemas/retired_owner.json").write_text("{}")
        capsys.readouterr()

        assert main(["schemas", "--check"]) == 1

        assert capsys.readouterr().out.splitlines() == [
            "docs/schemas/vault.json is missing.",
            "docs/openapi.json differs from the code.",
            "docs/schemas/retired_owner.json belongs to nobody.",
            "Run `make schemas`, look at what changed, and commit it.",
        ]
        assert main(["schemas"]) == 0
        assert main(["schemas", "--check"]) == 0


class TestOwner:
    @pytest.mark.parametrize("name", topology.ANNOUNCERS)
    def test_every_message_is_there_with_what_it_needs(self, name: str) -> None:
        owner = topology.ANNOUNCERS[name]
        shown = schemas.of_owner(name, owner)
        assert set(shown["commands"]) == {kind.__name__ for kind in commands(owner)}
        assert set(shown["events"]) == {kind.__name__ for kind in events(owner)}
        for kind in commands(owner):
            command = shown["commands"][kind.__name__]
            assert command["subject"] == kind.subject
            assert command["permission"] == kind.permission
            assert command["issuers"] == sorted(kind.issuers)
            assert set(command["message"].get("properties", {})) == set(kind.fields())
            assert set(command["reply"].get("properties", {})) == set(kind.reply.fields())
            assert command["message"]["additionalProperties"] is False  # a command refuses unknown fields
        for event in events(owner):
            assert shown["events"][event.__name__]["type"] == event.type
            assert "additionalProperties" not in shown["events"][event.__name__]["message"]  # its reader ignores them

    def test_sealed_fields_are_marked(self) -> None:
        shown = schemas.of_owner("vault", topology.OWNERS["vault"])
        assert shown["commands"]["PutSecret"]["message"]["properties"]["value"]["x-sealed"] is True


def test_documents_are_the_same_every_time() -> None:
    first, second = schemas.documents(), schemas.documents()
    assert first == second
    assert all(json.loads(text) for path, text in first.items() if path.suffix == ".json")
