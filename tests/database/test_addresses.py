"""Database addresses, by the commands and services that use them, over real TLS."""

from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from causeloop_cli import services
from causeloop_common.database import Database
from causeloop_common.database_url import DatabaseUrl
from causeloop_common.errors import Unavailable
from causeloop_common.settings import SettingsError, role_url
from causeloop_dev.authority import Authority
from causeloop_dev.testing import Servers
from tests.support.commands import Done, causeloop
from tests.support.postgres_tls import Front, front


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def socket(servers: Servers) -> Path:
    """The socket of the tests' server."""
    query = parse_qs(urlsplit(servers.database_url).query)
    return Path(query["host"][0]) / f".s.PGSQL.{query['port'][0]}"


def address(servers: Servers, front: Front, host: str = "localhost", /, **parameters: object) -> str:
    """The migrator's address through the front."""
    url = DatabaseUrl.read(servers.database_url)
    query = "&".join(f"{name}={value}" for name, value in parameters.items())
    return f"postgresql://{url.user}:{url.password}@{host}:{front.port}/{url.database}?{query}"


async def migrate(servers: Servers, url: str, **environ: str) -> Done:
    return await causeloop("migrate", DATABASE_URL=url, JWT_SECRET=servers.jwt_secret, **environ)


async def serve_once(servers: Servers, url: str) -> None:
    """Connect as auth does at its start, and prove its isolation."""
    dsn = role_url(url, "causeloop_auth", servers.jwt_secret.encode())
    database = Database(dsn, "auth", services.tables("auth"), workers=1)
    await database.start()
    try:
        assert await database.prove() == []
    finally:
        await database.stop()


class TestTls:
    @pytest.mark.parametrize("mode", ["require", "verify-ca", "verify-full"])
    async def test_migrate_and_services_connect_over_tls(
        self, servers: Servers, authority: Authority, socket: Path, mode: str
    ) -> None:
        """D1: migrate takes the TLS modes that services take."""
        trusted: dict[str, object] = {} if mode == "require" else {"sslrootcert": authority.ca_file}
        async with front(socket, authority.server("localhost")) as fronted:
            url = address(servers, fronted, sslmode=mode, **trusted)

            done = await migrate(servers, url, CAUSELOOP_ENV="production")
            await serve_once(servers, url)

            assert (done.code, done.errors) == (0, "")
            assert fronted.encrypted > 0
            assert fronted.plain == 0

    @pytest.mark.parametrize("mode", ["disable", "prefer", "allow"])
    async def test_and_without_tls_where_that_is_asked_for(
        self, servers: Servers, authority: Authority, socket: Path, mode: str
    ) -> None:
        """D1: `disable`, `allow`, and `prefer` at a server without TLS, connect without."""
        async with front(socket, None) as fronted:
            url = address(servers, fronted, sslmode=mode)

            assert (await migrate(servers, url)).code == 0
            await serve_once(servers, url)

            assert fronted.encrypted == 0

    async def test_a_server_without_tls_gets_no_password(self, servers: Servers, socket: Path) -> None:
        """D1: with `require` nothing goes in clear."""
        async with front(socket, None) as fronted:
            url = address(servers, fronted, sslmode="require")

            assert "The server offers no TLS, which sslmode asks for" in (await migrate(servers, url)).refusal()
            with pytest.raises(Unavailable, match="The server offers no TLS"):
                await serve_once(servers, url)

            assert fronted.plain == 0

    async def test_another_authoritys_server_is_refused(
        self, servers: Servers, authority: Authority, socket: Path, tmp_path: Path
    ) -> None:
        """D1: the wrong authority is named as the fault, by migrate and by services."""
        other = Authority(tmp_path)
        async with front(socket, other.server("localhost")) as fronted:
            url = address(servers, fronted, sslmode="verify-full", sslrootcert=authority.ca_file)
            assert "not of an authority that is trusted here" in (await migrate(servers, url)).refusal()
            for mode, file in (
                ("require", authority.ca_file),
                ("verify-ca", authority.ca_file),
                ("verify-full", "system"),
            ):
                with pytest.raises(Unavailable, match="name the authority's file in sslrootcert"):
                    await serve_once(servers, address(servers, fronted, sslmode=mode, sslrootcert=file))

    async def test_a_certificate_for_another_host_is_refused(
        self, servers: Servers, authority: Authority, socket: Path
    ) -> None:
        """D1: `verify-full` compares the host's name, `verify-ca` does not."""
        async with front(socket, authority.server("db.example.com")) as fronted:
            url = address(servers, fronted, sslmode="verify-full", sslrootcert=authority.ca_file)
            assert "Its certificate is for another host" in (await migrate(servers, url)).refusal()
            for host in ("localhost", "127.0.0.1"):
                url = address(servers, fronted, host, sslmode="verify-full", sslrootcert=authority.ca_file)
                with pytest.raises(Unavailable, match="Its certificate is for another host"):
                    await serve_once(servers, url)
            await serve_once(servers, address(servers, fronted, sslmode="verify-ca", sslrootcert=authority.ca_file))

    async def test_production_refuses_what_is_not_verified_on_another_host(self) -> None:
        """D1: migrate applies the rule of services."""
        for mode in ("require", "prefer", "disable"):
            url = f"postgresql://u:p@db.example.com/x?sslmode={mode}"
            done = await causeloop(
                "migrate",
                CAUSELOOP_ENV="production",
                JWT_SECRET="a-secret-of-at-least-thirty-two-characters",
                DATABASE_URL=url,
            )

            assert "DATABASE_URL leaves this host without TLS: add sslmode=verify-full" in done.refusal()


class TestPasswords:
    URL = "postgresql://u:p@db.example.com/x?sslmode=verify-full"

    @pytest.mark.parametrize("secret", [{}, {"JWT_SECRET": "short"}], ids=["none", "short"])
    async def test_those_of_development_stay_on_this_host(self, secret: dict[str, str]) -> None:
        """D2: roles on another host never get passwords that everybody can derive, whatever CAUSELOOP_ENV is."""
        for command in (("migrate",), ("serve", "tenancy")):
            done = await causeloop(*command, DATABASE_URL=self.URL, **secret)

            assert "others could guess the passwords of the database's roles" in done.refusal()

    def test_nor_does_a_service_use_them(self) -> None:
        """D2: a service is not composed with such an address."""
        for name in ("tenancy", "audit"):
            with pytest.raises(SettingsError, match="others could guess the passwords of the database's roles"):
                services.create(name, {"DATABASE_URL": self.URL})


class TestRoles:
    @pytest.mark.parametrize("role", ["RELAY", "JOBS"])
    async def test_an_address_of_another_role_is_refused_at_the_start(self, servers: Servers, role: str) -> None:
        """D4: a pooler that logs all in as one role, or the service's own address for its relay."""
        own = servers.environ["tenancy"]["DATABASE_URL_TENANCY"]
        environ = servers.environ["tenancy"] | {f"DATABASE_URL_TENANCY_{role}": own}
        application = services.create("tenancy", environ)
        sentence = f"DATABASE_URL_TENANCY_{role} logs in as causeloop_tenancy: write causeloop_tenancy_{role.lower()}"
        with pytest.raises(SettingsError, match=sentence):
            await application.start()
        await application.stop()


class TestParameters:
    @pytest.mark.parametrize("command", [("migrate",), ("keys", "auth"), ("serve", "auth"), ("doctor",)])
    async def test_each_command_refuses_the_same_by_name(self, command: tuple[str, ...]) -> None:
        """D10: one reader for all commands."""
        done = await causeloop(
            *command,
            DATABASE_URL="postgresql://u:p@localhost/x?channel_binding=require",
            JWT_SECRET="a-secret-of-at-least-thirty-two-characters",
        )

        assert "Traceback" not in done.errors + done.output
        assert done.code == (1 if command[0] in {"migrate", "doctor"} else 2)
        assert "DATABASE_URL" in done.errors + done.output
        assert "leave it out and add sslmode=verify-full" in " ".join((done.errors + done.output).split())

    @pytest.mark.parametrize(
        "parameters", ["connect_timeout=5", "application_name=x", "options=-c%20work_mem=8MB", "gssencmode=disable"]
    )
    async def test_those_of_libpq_work_at_the_server(self, servers: Servers, parameters: str) -> None:
        """D10: parameters as providers give them, and a socket's folder as a host."""
        url = DatabaseUrl.read(servers.database_url)
        folder = url.hosts[0][0].replace("/", "%2F")
        written = f"postgres://{url.user}:{url.password}@{folder}/{url.database}?{parameters}\n"

        assert (await migrate(servers, written)).code == 0
        await serve_once(servers, written)
