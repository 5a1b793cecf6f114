"""`causeloop doctor`: all well on a fresh installation, and each thing that can be wrong is named."""

import argparse
import json
import os
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import asyncpg
import nats
import pytest
from nats.js.api import ConsumerConfig, StreamConfig

from causeloop_cli import doctor, services, streams
from causeloop_cli.doctor import Finding
from causeloop_common import ids
from causeloop_common.contracts import topology
from causeloop_common.contracts.topology import BusPermissions
from causeloop_common.database import Database
from causeloop_common.settings import RoleSettings, SettingsError
from causeloop_dev.installation import Installation
from causeloop_dev.issuer import SigningKey
from causeloop_dev.testing import Servers, context
from tests.support import outboxes
from tests.support.relaying import announce


@pytest.fixture(scope="session")
def auth() -> Iterator[dict[str, str]]:
    """Auth's settings, with a provider that publishes a key. On a thread: the command has a loop of its own."""

    class Keys(BaseHTTPRequestHandler):
        document = json.dumps({"keys": [SigningKey().jwk]}).encode()

        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(self.document)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Keys) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield {
            "CLERK_JWKS_URL": f"http://127.0.0.1:{server.server_port}/.well-known/jwks.json",
            "CLERK_AUTHORIZED_PARTIES": "http://127.0.0.1:4000",
        }
        server.shutdown()


@pytest.fixture
def environs(servers: Servers, auth: dict[str, str]) -> dict[str, dict[str, str]]:
    """What each service, and the operator, would be given."""
    operator = {"NATS_URL": servers.nats_url, "NATS_NKEY_SEED_OPERATOR": servers.seeds["operator"]}
    made = {name: dict(environ) for name, environ in servers.environ.items()} | {"operator": operator}
    made["auth"] |= auth
    return made


@pytest.fixture(autouse=True)
async def superuser(servers: Servers) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(servers.superuser_url)
    await outboxes.settle(connection)
    yield connection
    await connection.close()


def failed(findings: list[Finding]) -> list[Finding]:
    return [finding for finding in findings if finding.result != "ok"]


class TestExamine:
    async def test_a_fresh_installation_is_well_in_every_respect(self, environs: dict[str, dict[str, str]]) -> None:
        findings = await doctor.examine(environs)
        assert failed(findings) == []
        checked = {(finding.about, finding.check) for finding in findings}
        assert {(name, "isolation") for name in topology.OWNERS} <= checked
        assert {(name, "bus") for name in topology.SERVICES} <= checked
        assert {("vault", "master_key"), ("auth", "role relay"), ("audit", "role writer")} <= checked
        assert {
            ("bus", "server"),
            ("bus", "stream EVENTS"),
            ("bus", "stream DEAD"),
            ("bus", "consumer audit_intake"),
        } <= checked

    async def test_a_policy_too_many_is_named(
        self, environs: dict[str, dict[str, str]], superuser: asyncpg.Connection
    ) -> None:
        await superuser.execute("CREATE POLICY open ON vault.secrets FOR SELECT TO causeloop_vault USING (true)")
        try:
            [finding] = failed(await doctor.examine(environs))
        finally:
            await superuser.execute("DROP POLICY open ON vault.secrets")
        assert (finding.about, finding.check) == ("vault", "isolation")
        assert "vault.secrets has a policy that is not declared: open for select" in finding.result

    async def test_another_master_key_is_reported(self, environs: dict[str, dict[str, str]]) -> None:
        await doctor.examine(environs)  # the canary is there
        environs["vault"]["CAUSELOOP_MASTER_KEY"] = Installation.new().master_key
        [finding] = failed(await doctor.examine(environs))
        assert (finding.about, finding.check) == ("vault", "master_key")
        assert "does not open this database's keys" in finding.result

    async def test_a_role_that_is_not_let_in_is_named(self, environs: dict[str, dict[str, str]]) -> None:
        good = environs["auth"]["DATABASE_URL_AUTH_RELAY"]
        environs["auth"]["DATABASE_URL_AUTH_RELAY"] = good.replace("auth_relay:", "auth_relay:not")
        finding, role = failed(await doctor.examine(environs))
        assert (role.about, role.check) == ("auth", "role relay")
        assert "The server refuses the password." in role.result
        assert finding == ("auth", "receipts", "It cannot be looked at: InvalidPasswordError.")

    async def test_what_could_not_be_looked_at_is_not_well(self, environs: dict[str, dict[str, str]]) -> None:
        """F8: with every password refused, and with no bus, no check is green that needs it."""
        for owner in topology.OWNERS:
            environs[owner]["JWT_SECRET"] = "another-secret-of-more-than-thirty-two-characters"
            for name in [one for one in environs[owner] if one.startswith("DATABASE_URL")]:
                environs[owner][name] = environs[owner][name].replace("@", "not@", 1)
        well = {f.check for f in await doctor.examine(environs) if f.result == "ok" and f.about in topology.OWNERS}
        assert well == {"bus", "identity provider"}

    async def test_without_the_bus_no_check_of_it_is_well(self, environs: dict[str, dict[str, str]]) -> None:
        for environ in environs.values():
            environ["NATS_URL"] = "nats://127.0.0.1:9"
        found = await doctor.examine(environs)
        assert {(f.about, f.check) for f in found if "bus" in (f.about, f.check)} <= {
            (f.about, f.check) for f in failed(found)
        }
        assert "operator" in {f.about for f in failed(found)}

    async def test_an_act_that_the_log_has_not_receipted_is_named_by_its_own_age(
        self, environs: dict[str, dict[str, str]], superuser: asyncpg.Connection
    ) -> None:
        """E15: after each sending the publication is new, and so doctor was green while audit stood still."""
        dsn = RoleSettings.load("tenancy", environs["tenancy"]).dsn("causeloop_tenancy")
        database = Database(dsn, "tenancy", services.tables("tenancy"), workers=1)
        await database.start()
        await announce(database, context(ids.new("ws")), "one", "two")
        await database.stop()
        long_ago = "occurred_at = now() - interval '963 seconds'"
        for marks in (", stream_seq = 1", ", attempts = 1", ", published_at = now()"):
            await superuser.execute(f"UPDATE tenancy.outbox SET {long_ago}{marks} WHERE confirmed_batch IS NULL")
            [finding] = failed(await doctor.examine(environs))
            assert (finding.about, finding.check) == ("tenancy", "receipts")
            assert finding.result.startswith("2 events are not receipted by the log, the oldest of an act 96")

    async def test_a_foreign_owner_is_named(
        self, environs: dict[str, dict[str, str]], superuser: asyncpg.Connection
    ) -> None:
        """D5: as after a restore without owners."""
        await superuser.execute("ALTER TABLE audit.nodes OWNER TO postgres")
        try:
            [finding] = failed(await doctor.examine(environs))
        finally:
            await superuser.execute("ALTER TABLE audit.nodes OWNER TO causeloop_audit_owner")
        assert (finding.about, finding.check) == ("audit", "isolation")
        assert "The owner of audit.nodes is 'postgres', not 'causeloop_audit_owner'." in finding.result

    async def test_a_database_that_accepts_no_writes_is_named(
        self, environs: dict[str, dict[str, str]], superuser: asyncpg.Connection
    ) -> None:
        """D18: by every service, with the setting that makes it so."""
        name = await superuser.fetchval("SELECT current_database()")
        await superuser.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
        try:
            findings = failed(await doctor.examine(environs))
        finally:
            await superuser.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only")
        sentence = "The database accepts no writes: its server is a standby, or read-only."
        assert {(owner, "postgres", sentence) for owner in topology.OWNERS} <= {tuple(one) for one in findings}

    async def test_a_wrong_authority_is_named(self, environs: dict[str, dict[str, str]]) -> None:
        """D1: with the parameter and the file."""
        own = environs["audit"]["DATABASE_URL_AUDIT"].partition("?")[0].replace("@/", "@localhost/")
        environs["audit"]["DATABASE_URL_AUDIT"] = f"{own}?sslmode=verify-full&sslrootcert=/not/there.pem"
        findings = {one.check: one.result for one in failed(await doctor.examine(environs)) if one.about == "audit"}
        assert "names a file in sslrootcert that cannot be read: /not/there.pem" in findings["database"]

    async def test_settings_that_cannot_be_read_are_reported_by_variable(
        self, environs: dict[str, dict[str, str]]
    ) -> None:
        del environs["auth"]["CLERK_JWKS_URL"]
        [finding] = failed(await doctor.examine(environs))
        assert (finding.about, finding.check) == ("auth", "settings")
        assert finding.result.startswith("CLERK_JWKS_URL")

    async def test_an_identity_provider_that_cannot_be_reached_is_named_with_its_cause(
        self, environs: dict[str, dict[str, str]]
    ) -> None:
        """F8: the log had "ConnectError", and doctor was green."""
        environs["auth"]["CLERK_JWKS_URL"] = "http://127.0.0.1:9/.well-known/jwks.json"
        [finding] = failed(await doctor.examine(environs))
        assert (finding.about, finding.check) == ("auth", "identity provider")
        assert finding.result == (
            "CLERK_JWKS_URL cannot be fetched. There is no connection to 127.0.0.1:9 (Connection refused): check that "
            "it listens there, and that a firewall lets this service out."
        )

    async def test_an_authority_file_that_cannot_be_read_is_named(self, environs: dict[str, dict[str, str]]) -> None:
        environs["auth"]["OUTBOUND_CA_FILE"] = "/nowhere/ca.pem"
        [finding] = failed(await doctor.examine(environs))
        assert finding == (
            "auth", "settings", "OUTBOUND_CA_FILE: /nowhere/ca.pem cannot be used: No such file or directory."
        )  # fmt: skip

    @pytest.mark.parametrize("name", [*topology.SERVICES, topology.reader("audit"), topology.OPERATOR])
    async def test_accounts_that_do_not_permit_a_subject_are_named(
        self, environs: dict[str, dict[str, str]], monkeypatch: pytest.MonkeyPatch, name: str
    ) -> None:
        """F1: every subject that a credential needs is looked at, here one that an earlier release did not need."""
        declared = topology.permissions

        def later(credential: str) -> BusPermissions:
            needed = declared(credential)
            return replace(needed, subscribe=(*needed.subscribe, "now.*.new")) if credential == name else needed

        monkeypatch.setattr(topology, "permissions", later)
        [finding] = failed(await doctor.examine(environs))
        service = "audit" if name == "audit_reader" else "bus" if name == "operator" else name
        assert (finding.about, finding.check) == (service, "permissions" if name == "operator" else "bus")
        assert f"NATS does not permit {name} to subscribe now.*.new." in finding.result
        assert "`causeloop keys --nats config`" in finding.result

    async def test_drift_of_streams_and_consumers_is_named(
        self, environs: dict[str, dict[str, str]], servers: Servers
    ) -> None:
        seed = servers.seeds["operator"]
        client = await nats.connect(servers.nats_url, nkeys_seed_str=seed, inbox_prefix="_INBOX.operator")
        manager = client.jetstream()
        found = (await manager.stream_info("DEAD")).config
        await manager.update_stream(found.evolve(max_bytes=12345))
        await manager.add_stream(StreamConfig(name="STRANGE", subjects=["strange.>"]))
        intake = (await manager.consumer_info("EVENTS", "audit_intake")).config
        await manager.add_consumer("EVENTS", ConsumerConfig(**{**vars(intake), "max_ack_pending": 7}))
        try:
            shown = {finding.check: finding.result for finding in failed(await doctor.examine(environs))}
        finally:
            await manager.delete_stream("STRANGE")
            await client.close()
            await streams.declare(servers.nats_url, seed)
        assert set(shown) == {"stream DEAD", "stream STRANGE", "consumer audit_intake"}
        assert "max_bytes is 12345, declared" in shown["stream DEAD"]
        assert "It is not declared" in shown["stream STRANGE"]
        assert "max_ack_pending is 7, declared 5000" in shown["consumer audit_intake"]
        assert failed(await doctor.examine(environs)) == []  # `migrate` mends it

    async def test_a_consumer_that_is_paused_is_named(
        self, environs: dict[str, dict[str, str]], servers: Servers
    ) -> None:
        """D3: the log stands still, and `migrate` has it go on."""
        seed = servers.seeds["operator"]
        client = await streams.connect(servers.nats_url, "operator", seed)
        await client.jetstream().pause_consumer("EVENTS", "audit_intake", "2099-01-01T00:00:00Z")
        await client.close()
        try:
            [finding] = failed(await doctor.examine(environs))
        finally:
            await streams.declare(servers.nats_url, seed)
        assert finding.check == "consumer audit_intake"
        assert finding.result == "It is paused, and delivers nothing. Run `causeloop migrate`."
        assert failed(await doctor.examine(environs)) == []

    async def test_events_that_nobody_publishes_are_named(
        self, environs: dict[str, dict[str, str]], superuser: asyncpg.Connection
    ) -> None:
        """D3: the outbox stands still, and doctor was green."""
        await superuser.execute(
            "INSERT INTO tenancy.outbox (workspace_id, event_id, type, occurred_at, data, actor, target, request_id, "
            "traceparent) VALUES (gen_random_uuid(), gen_random_uuid(), 'tenancy.member_added', "
            "now() - interval '1 hour', '{}', 'svc_tenancy', 'x', '', '')"
        )
        try:
            [finding] = failed(await doctor.examine(environs))
        finally:
            await superuser.execute("DELETE FROM tenancy.outbox WHERE published_at IS NULL")
        assert (finding.about, finding.check) == ("tenancy", "receipts")
        assert "1 events have been waiting to be published for ten minutes" in finding.result

    async def test_an_address_of_another_role_is_named(self, environs: dict[str, dict[str, str]]) -> None:
        """D4: as a pooler would that logs everybody in as one role."""
        environs["auth"]["DATABASE_URL_AUTH_JOBS"] = environs["auth"]["DATABASE_URL_AUTH"]
        [finding] = failed(await doctor.examine(environs))
        assert (finding.about, finding.check) == ("auth", "role jobs")
        assert "DATABASE_URL_AUTH_JOBS logs in as causeloop_auth: write causeloop_auth_jobs into it" in finding.result

    async def test_a_server_of_an_older_version_is_refused(
        self, servers: Servers, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(topology, "SERVER_VERSION", (9, 1))
        with pytest.raises(SettingsError, match=r"a server of version 2\.\d+\. Use version 9\.1 or later"):
            await streams.declare(servers.nats_url, servers.seeds["operator"])

    async def test_a_server_that_permits_too_small_messages_is_named_with_the_setting(
        self, environs: dict[str, dict[str, str]], servers: Servers, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """E13: at the start of a service, and by doctor."""
        monkeypatch.setattr(topology, "MAX_PAYLOAD_BYTES", 8_388_608)
        sentence = "permits messages of 4194304 bytes. Set `max_payload: 8388608` in its configuration"
        with pytest.raises(SettingsError, match=sentence):
            await streams.declare(servers.nats_url, servers.seeds["operator"])
        found = failed(await doctor.examine(environs))
        assert {(f.about, f.check) for f in found} == {("bus", "server"), *((s, "bus") for s in topology.SERVICES)}
        assert all(sentence in finding.result for finding in found)

    async def test_without_the_operator_the_services_with_consumers_compare_what_they_may_see(
        self, environs: dict[str, dict[str, str]]
    ) -> None:
        del environs["operator"]
        findings = await doctor.examine(environs)
        assert failed(findings) == []
        checked = [f.check for f in findings if f.about == "bus"]
        streams = [f"{what} {stream.name}" for what in ("stream", "space") for stream in topology.STREAMS]
        consumers = [f"consumer {consumer.name}" for consumer in topology.CONSUMERS]
        assert sorted(checked) == sorted(["server", "permissions", *streams, "dead letters", *consumers])


class TestCommand:
    @pytest.fixture
    def environ(self, servers: Servers, auth: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
        """One environment for all, as on a small server."""
        for name in os.environ:
            if name.startswith(("CAUSELOOP_", "DATABASE_", "NATS_")):
                monkeypatch.delenv(name)
        seeds = {f"NATS_NKEY_SEED_{name.upper()}": seed for name, seed in servers.seeds.items()}
        common = {
            "DATABASE_URL": servers.database_url,
            "JWT_SECRET": servers.jwt_secret,
            "NATS_URL": servers.nats_url,
            "CAUSELOOP_MASTER_KEY": servers.environ["vault"]["CAUSELOOP_MASTER_KEY"],
        }
        for name, value in {**seeds, **common, **auth}.items():
            monkeypatch.setenv(name, value)

    @pytest.mark.usefixtures("environ")
    def test_it_prints_a_line_for_each_check_and_every_unaudited_table(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert doctor.main(argparse.Namespace()) == 0
        shown = capsys.readouterr().out
        assert "Settings from the environment." in shown
        lines = [" ".join(line.split()) for line in shown.splitlines()]
        assert "ok vault master_key The master key opens this database's keys." in lines
        assert "ok auth identity provider Its keys can be fetched." in lines
        assert "FAIL" not in shown
        for table, reason in doctor.unaudited():
            assert f"{table:<26}{reason}" in shown
        assert shown.endswith("checks hold.\n")

    @pytest.mark.usefixtures("environ")
    def test_a_failure_is_a_line_and_the_exit_code(self) -> None:
        """In a process of its own: nats-py leaves the socket of a refused connection to the garbage collector."""
        environ = {**os.environ, "NATS_NKEY_SEED_AUDIT": Installation.new().seeds["audit"]}
        command = [sys.executable, "-m", "causeloop_cli", "doctor"]

        done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)

        assert done.returncode == 1
        assert "FAIL audit bus NATS does not let audit_reader in" in " ".join(done.stdout.split())
        assert "\n1 of " in done.stdout
        assert done.stderr == ""


class TestEnvironments:
    def test_without_settings_and_without_a_dev_there_is_nothing_to_examine(self, tmp_path: Path) -> None:
        with pytest.raises(SettingsError, match="There is nothing to examine"):
            doctor.environments({}, tmp_path / ".causeloop")

    def test_an_environment_with_the_keys_of_one_service_is_for_that_one(self, tmp_path: Path) -> None:
        environs, origin = doctor.environments({"CAUSELOOP_KEYS_AUTH": "…"}, tmp_path)
        assert set(environs) == {"auth", "operator"}
        assert origin == "the environment, which has keys for auth"
