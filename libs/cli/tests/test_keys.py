"""`causeloop keys`: a service's environment holds what it needs and nothing of another service."""

import base64
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping

import nkeys
import pytest

from causeloop_cli.main import main
from causeloop_common.contracts import topology
from causeloop_common.settings import DEVELOPMENT_SECRET, Settings

SECRET = "a-secret-of-the-installation-for-tests-0123456789"
URL = "postgresql://migrator:pw@db.example:5432/causeloop?sslmode=verify-full"


Ask = Callable[..., list[str]]


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Ask:
    """Runs the command in this process; its lines."""

    def ask(*arguments: str, expect: int = 0, **environ: str) -> list[str]:
        for name in ("JWT_SECRET", "DATABASE_URL", "CAUSELOOP_ENV", *os.environ):
            if name.startswith(("JWT_", "DATABASE_", "CAUSELOOP_", "NATS_")):
                monkeypatch.delenv(name, raising=False)
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        assert main(["keys", *arguments]) == expect
        shown = capsys.readouterr()
        return (shown.err if expect else shown.out).splitlines()

    return ask


def as_environ(lines: list[str]) -> dict[str, str]:
    return dict(line.split("=", 1) for line in lines)


def held(environ: Mapping[str, str], service: str) -> set[str]:
    """The pairs whose keys a service was given."""
    dump = json.loads(base64.urlsafe_b64decode(environ[f"CAUSELOOP_KEYS_{service.upper()}"]))
    assert dump["service"] == service
    return set(dump["pairs"])


class TestService:
    @pytest.mark.parametrize("service", topology.SERVICES)
    def test_it_gets_the_pairs_it_belongs_to_and_no_other(self, keys: Ask, service: str) -> None:
        given = held(as_environ(keys(service, JWT_SECRET=SECRET)), service)
        assert given == {
            f"{issuer}>{audience}" for issuer, audience in topology.pairs() if service in (issuer, audience)
        }

    @pytest.mark.parametrize("service", topology.SERVICES)
    def test_its_settings_are_those_of_the_root_secret(self, keys: Ask, service: str) -> None:
        given = as_environ(keys(service, JWT_SECRET=SECRET, DATABASE_URL=URL))
        own = Settings.load(service, given)
        root = Settings.load(service, {"JWT_SECRET": SECRET, "DATABASE_URL": URL})

        assert SECRET not in "".join(given.values())
        assert own.keyring().dump() == root.keyring().dump()
        if service in topology.OWNERS:
            assert own.dsn(f"causeloop_{service}") == root.dsn(f"causeloop_{service}")
        if service in topology.OWNERS:
            assert own.dsn(f"causeloop_{service}_relay") == root.dsn(f"causeloop_{service}_relay")

    def test_the_writer_of_the_log_gets_its_address(self, keys: Ask) -> None:
        given = as_environ(keys("audit", JWT_SECRET=SECRET, DATABASE_URL=URL))
        assert {name for name in given if name.startswith("DATABASE_")} == {
            f"DATABASE_URL_AUDIT{role}" for role in ("", "_JOBS", "_RELAY", "_WRITER")
        }
        assert "//causeloop_audit_writer:" in given["DATABASE_URL_AUDIT_WRITER"]

    def test_without_a_database_only_the_keys_are_reported(self, keys: Ask) -> None:
        assert list(as_environ(keys("vault", JWT_SECRET=SECRET))) == ["CAUSELOOP_KEYS_VAULT"]

    def test_a_missing_secret_is_refused_with_what_to_do(self, keys: Ask) -> None:
        [shown] = keys("auth", expect=2)
        assert shown.startswith("causeloop keys: Set JWT_SECRET to the installation's secret")
        assert "openssl rand" in shown

    @pytest.mark.parametrize("secret", ["short", DEVELOPMENT_SECRET, f"{DEVELOPMENT_SECRET} ", " " * 40])
    def test_keys_that_others_could_guess_are_not_made(self, keys: Ask, secret: str) -> None:
        """D2: in production, a service could not tell from them that they are."""
        [shown] = keys("auth", expect=2, JWT_SECRET=secret)
        assert "shorter than 32 characters" in shown

    def test_it_names_a_service_or_the_bus(self, keys: Ask) -> None:
        assert keys(expect=2) == ["causeloop keys: Name one service, or ask for --nats."]
        assert keys("auth", "--nats", expect=2) == ["causeloop keys: Name one service, or ask for --nats."]


class TestBus:
    def test_seeds_are_new_and_of_users(self, keys: Ask) -> None:
        first, second = as_environ(keys("--nats", "seeds")), as_environ(keys("--nats", "seeds"))
        assert set(first) == {f"NATS_NKEY_SEED_{name.upper()}" for name in (*topology.SERVICES, "operator")}
        assert set(first.values()).isdisjoint(second.values())
        assert all(seed.startswith("SU") for seed in first.values())

    def test_the_configuration_holds_the_public_keys_of_the_given_seeds(self, keys: Ask) -> None:
        seeds = as_environ(keys("--nats", "seeds"))
        text = "\n".join(keys("--nats", "config", **seeds))
        for seed in seeds.values():
            assert seed not in text
            assert nkeys.from_seed(bytearray(seed.encode())).public_key.decode() in text
        assert text.startswith("max_payload: 4194304\n")

    def test_both_belong_together(self, keys: Ask) -> None:
        lines = keys("--nats")
        blank = lines.index("")
        assert lines[blank + 1 :] == keys("--nats", "config", **as_environ(lines[:blank]))

    def test_a_missing_or_foreign_seed_is_named_and_not_shown(self, keys: Ask) -> None:
        seeds = as_environ(keys("--nats", "seeds"))
        garbled = {**seeds, "NATS_NKEY_SEED_VAULT": "SUnonsense"}
        del seeds["NATS_NKEY_SEED_AUDIT"]
        [missing] = keys("--nats", "config", expect=2, **seeds)
        [foreign] = keys("--nats", "config", expect=2, **garbled)
        assert missing.startswith("causeloop keys: Set NATS_NKEY_SEED_AUDIT: ")
        assert foreign == "causeloop keys: NATS_NKEY_SEED_VAULT is not the seed of a user's nkey (SU…)."


def test_a_reader_that_has_enough_is_no_error_of_ours() -> None:
    command = f"{sys.executable} -m causeloop_cli keys --nats | head -c 1"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("N", "")
