"""The vectors in the package: this code agrees with them, and they are what vectors.py writes."""

import base64
import hashlib
import importlib
import json
import re
from importlib.resources import files
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from causeloop_log import entry
from causeloop_log.entry import Entry, NotCanonical, v2
from causeloop_log.main import main


def vectors(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(files("causeloop_log").joinpath("vectors", name).read_text(encoding="ascii"))
    return loaded


V1, V2, FILES = vectors("entry-v1.json"), vectors("entry-v2.json"), vectors("files.json")


def leaf_of(vector: dict[str, Any]) -> bytes:
    return vector["leaf"].encode() if "leaf" in vector else base64.b64decode(vector["leaf_base64"])


def by_name(vector: dict[str, Any]) -> str:
    return str(vector["name"])


def by_version(vector: dict[str, Any]) -> str:
    return f"{vector['name']}, version {vector['leaf'][-2]}"


@pytest.fixture
def generator(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    return importlib.import_module("vectors")


def test_the_files_are_those_that_the_generator_writes(generator: ModuleType) -> None:
    for name, text in generator.written().items():
        assert (generator.FOLDER / name).read_text(encoding="ascii") == text, "Run: python libs/log/tests/vectors.py"


class TestEntries:
    @pytest.mark.parametrize("vector", [*V1["accepted"], *V2["accepted"]], ids=by_version)
    def test_an_accepted_leaf_has_its_hash_and_its_one_form(self, vector: dict[str, Any]) -> None:
        leaf = leaf_of(vector)
        value = json.loads(leaf)
        assert hashlib.sha256(b"\x00" + leaf).hexdigest() == vector["leaf_hash"]
        assert json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode() == leaf

        found = entry.read(leaf)
        assert found.version == value["v"]
        for name in ("id", "tenant", "time", "action", "actor", "credential", "target", "request", "data", "salt"):
            assert getattr(found, name) == value[name]

    @pytest.mark.parametrize("vector", V2["accepted"], ids=by_name)
    def test_an_entry_of_version_2_is_written_as_it_was(self, vector: dict[str, Any]) -> None:
        leaf = leaf_of(vector)
        assert v2.leaf(entry.read(leaf)) == leaf

    @pytest.mark.parametrize("vector", V1["accepted"], ids=by_name)
    def test_an_entry_of_version_1_has_no_field_that_only_version_2_has(self, vector: dict[str, Any]) -> None:
        found = entry.read(leaf_of(vector))
        only = ("source", "outcome", "actor_kind", "on_behalf_of", "target_kind", "address", "user_agent")
        assert {getattr(found, name) for name in only} == {None}

    @pytest.mark.parametrize("vector", V1["refused"], ids=by_name)
    def test_a_leaf_that_version_1_never_writes_is_refused(self, vector: dict[str, Any]) -> None:
        with pytest.raises(NotCanonical, match=re.escape(vector["why"])):
            entry.read(leaf_of(vector))

    @pytest.mark.parametrize("vector", V2["refused"], ids=by_name)
    def test_a_leaf_that_breaks_a_rule_of_version_2_is_refused_by_that_rule(self, vector: dict[str, Any]) -> None:
        with pytest.raises(NotCanonical) as refused:
            entry.read(leaf_of(vector))
        assert refused.value.rule == vector["rule"]

    def test_every_rule_has_a_leaf_that_breaks_it(self) -> None:
        assert {vector["rule"] for vector in V2["refused"]} == set(v2.RULES)
        assert V2["rules"] == {str(number): rule for number, rule in v2.RULES.items()}

    def test_every_field_of_version_2_is_set_in_one_of_them(self) -> None:
        found = [entry.read(leaf_of(vector)) for vector in V2["accepted"]]
        assert all(any(getattr(one, name) is not None for one in found) for name in Entry._fields)


class TestFiles:
    def run(self, vector: dict[str, Any], folder: Path) -> int:
        file = folder / vector["name"]
        file.write_bytes(vector["text"].encode() if "text" in vector else base64.b64decode(vector["base64"]))
        options = [str(file), "--key", FILES["key"]]
        if vector["kept"] is not None:
            kept = folder / "kept.checkpoint"
            kept.write_text(vector["kept"], encoding="utf-8")
            options += ["--kept", str(kept)]
        if vector.get("allow_withheld"):
            options.append("--allow-withheld")
        return main(options)

    @pytest.mark.parametrize("vector", FILES["accepted"], ids=by_name)
    def test_that_hold_are_verified(
        self, vector: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert self.run(vector, tmp_path) == 0
        assert "\nVERIFIED: causeloop.example/log/ws_" in capsys.readouterr().out

    @pytest.mark.parametrize("vector", FILES["refused"], ids=by_name)
    def test_that_are_bent_are_refused_by_their_step(
        self, vector: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """P7, P8: claims about removed entries, keys that stand twice, line ends, other spellings."""
        code = self.run(vector, tmp_path)
        shown = capsys.readouterr()
        if vector["step"] == 0:  # no verifier reads such a file
            assert code == 2
            assert re.search(vector["why"], shown.err)
            assert "VERIFIED" not in shown.out
            return
        assert (code, shown.err) == (1, "")
        *_, failed, empty, verdict = shown.out.splitlines()
        assert failed.startswith(f"  {vector['step']}  FAILED  ")
        assert re.search(vector["why"], failed, re.IGNORECASE)
        assert (empty, verdict.split(",")[0]) == ("", f"NOT VERIFIED: step {vector['step']}")
        assert "\x1b" not in shown.out

    def test_have_names_of_their_own(self) -> None:
        names = [vector["name"] for vector in (*FILES["accepted"], *FILES["refused"])]
        assert len(set(names)) == len(names)
