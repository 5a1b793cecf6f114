"""The one reader of database addresses: what libpq reads works, or is refused by its name."""

import re

import pytest

from causeloop_common.database_url import SOCKET_FOLDERS, DatabaseUrl


class TestRead:
    @pytest.mark.parametrize(
        ("url", "means"),
        [
            ("postgresql://u:p@db.example.com:6432/x", "postgresql://u:p@db.example.com:6432/x"),
            ("postgres://u:p@db/x", "postgresql://u:p@db/x"),
            ("postgresql://u:p@db/x\n", "postgresql://u:p@db/x"),
            ("postgresql://u:p@%2Frun%2Fpostgresql/x", "postgresql://u:p@/x?host=/run/postgresql&port=5432"),
            ("postgresql://u:p@/x?host=/run/a&port=6432", "postgresql://u:p@/x?host=/run/a&port=6432"),
            ("postgresql://u:p@[::1]:6432/x", "postgresql://u:p@[::1]:6432/x"),
            ("postgresql://u:p@[fe80::1%25eth0]/x", "postgresql://u:p@[fe80::1%25eth0]/x"),
            ("postgresql://u:p@a:1,b/x", "postgresql://u:p@a:1,b/x"),
            ("postgresql://a,b/x?port=1,2", "postgresql://a:1,b:2/x"),
            ("postgresql://db?dbname=x&user=u&password=p", "postgresql://u:p@db/x"),
            ("postgresql://db/x?connect_timeout=5", "postgresql://db/x?connect_timeout=5"),
            ("postgresql://db/x?application_name=y%20z", "postgresql://db/x?application_name=y%20z"),
            ("postgresql://db/x?options=endpoint%3Dy", "postgresql://db/x?options=endpoint%3Dy"),
            ("postgresql://db/x?sslmode=verify-full&sslrootcert=system", None),
            ("postgresql://db/x?channel_binding=prefer&gssencmode=disable&client_encoding=UTF8", None),
            ("postgresql://db/x?target_session_attrs=read-write", None),
            ("postgresql://db/x?sslmode=verify-full&sslnegotiation=direct", None),
            ("postgresql://db/x?sslmode=verify-full&sslcert=/c&sslkey=/k&sslpassword=p", None),
            ("postgresql:///x", "postgresql:///x"),
        ],
    )
    def test_reads_addresses_as_providers_give_them(self, url: str, means: str | None) -> None:
        """D10: what libpq reads is read, and written so that each client reads it alike."""
        read = DatabaseUrl.read(url)

        assert DatabaseUrl.read(read.text()) == read
        if means is not None:
            assert read.text() == means

    @pytest.mark.parametrize(
        ("url", "sentence"),
        [
            ("", "is no address of a database: it begins with postgresql://"),
            ("postgresql://a..b/x", "has a host that is no name and no address"),
            (f"postgresql://{'a' * 64}.example/x", "has a host that is no name and no address"),
            ("postgresql://u:p@a b/x", "has a host that is no name and no address"),
            ("postgresql:///x?host=a..b", "has a host that is no name and no address"),
            ("mysql://db/x", "is no address of a database: it begins with postgresql://"),
            ("postgresql+asyncpg://db/x", "is no address of a database: it begins with postgresql://"),
            ("postgresql://db/", "names no database"),
            ("postgresql://db:70000/x", "has a port that is no number"),
            ("postgresql://u:pass/word@db/x", "write that one's special characters as percent and number"),
            ("postgresql://[::1/x", "has an IPv6 address that is none"),
            ("postgresql://a,b/x?port=1,2,3", "has another number of ports than of hosts"),
            ("postgresql://db/x?host=other", "has the host twice"),
            ("postgresql://db/x?sslmode=prefer&sslmode=disable", "has the parameter sslmode twice"),
            ("postgresql://db/x?sslmode", "has a parameter without a value"),
            ("postgresql://db/x?sslmode=verify", "has sslmode=verify, and only disable, allow, "),
            ("postgresql://db/x?channel_binding=require", "add sslmode=verify-full, which proves the server"),
            ("postgresql://db/x?pgbouncer=true", "has the parameter pgbouncer, which does not work here"),
            ("postgresql://db/x?statement_timeout=5", "has the parameter statement_timeout, which does not work here"),
            ("postgresql://db/x?hostaddr=10.0.0.1", "name the server by host alone"),
            ("postgresql://db/x?passfile=/p", "write the password into the URL"),
            ("postgresql://db/x?service=s", "write host, database and user into the URL"),
            ("postgresql://db/x?ssl=true", "write sslmode=verify-full instead"),
            ("postgresql://db/x?sslsni=0", "has sslsni=0, and only 1 work here: leave it out"),
            ("postgresql://db/x?sslcompression=1", "only 0 work here: leave it out"),
            ("postgresql://db/x?ssl_min_protocol_version=TLSv1", "only TLSv1.2, TLSv1.3 work here: leave it out"),
            ("postgresql://db/x?sslcrldir=/x", "revoke by a new authority"),
            ("postgresql://u:p%zz@db/x", "percent-encode the password"),
            ("postgresql://u:p%@db/x", "percent-encode the password"),
            ("postgresql://u:p%ff@db/x", "percent-encode the password"),
            ("postgresql://u:p%00@db/x", "percent-encode the password"),
            ("postgresql://db/x?password=p%zz", "percent-encode the password"),
            ("postgresql://u:a@b?c#d@db/x", "percent-encode the password (@ as %40)"),
            ("postgresql://u:p@w@127.0.0.1/x", "percent-encode the password (@ as %40)"),
            ("postgresql://db/x?require_auth=none", "has the parameter require_auth"),
            ("postgresql://db/x?target_session_attrs=standby", "services write"),
            ("postgresql://db/x?connect_timeout=0", "no number of seconds from 1 to 60"),
            ("postgresql://db/x?sslmode=verify-ca", "any certificate of a public authority would pass"),
            ("postgresql://db/x?sslmode=require&sslrootcert=system", "nothing is verified"),
            ("postgresql://db/x?sslcert=/c", "a client's certificate needs both"),
            ("postgresql://db/x?application_name=a%0Ab", "has control characters"),
            ("postgresql://db/x\x00", "has control characters"),
            (f"postgresql://db/{'x' * 5000}", "more than 4096 characters"),
        ],
    )
    def test_refuses_by_name_with_what_to_do(self, url: str, sentence: str) -> None:
        """D10: what does not work is refused by its name, with what to do."""
        with pytest.raises(ValueError, match=re.escape(sentence)):
            DatabaseUrl.read(url)

    def test_no_refusal_and_no_text_for_people_has_the_password(self) -> None:
        for url in ("postgresql://u:canary@db:x/y", "postgresql://u:canary@db/y?z=canary", "postgresql://u:canary@/"):
            with pytest.raises(ValueError, match=r"has|names") as refused:
                DatabaseUrl.read(url)
            assert "canary" not in str(refused.value)
        assert "canary" not in repr(DatabaseUrl.read("postgresql://u:canary@db/y"))

    def test_a_socket_or_the_loopback_is_this_host(self) -> None:
        local = (
            "postgresql:///x",
            "postgresql://localhost/x",
            "postgresql://127.0.0.2,[::1]/x",
            "postgresql:///x?host=/s",
        )
        for url in local:
            assert DatabaseUrl.read(url).is_local
        for url in ("postgresql://db/x", "postgresql://127.0.0.1,db/x", "postgresql:///x?host=/s,db"):
            assert not DatabaseUrl.read(url).is_local


class TestArguments:
    def test_nothing_comes_from_the_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("PGHOST", "PGPORT", "PGUSER", "PGPASSWORD", "PGDATABASE", "PGSSLMODE", "PGSSLROOTCERT"):
            monkeypatch.setenv(name, "elsewhere")
        given = DatabaseUrl.read("postgresql://u@/x").arguments("name")

        assert given["host"] == list(SOCKET_FOLDERS)
        assert given["password"] == ""
        assert given["ssl"] == "prefer"
        assert given["server_settings"] == {"application_name": "name"}

    def test_a_file_that_cannot_be_used_is_named(self) -> None:
        url = DatabaseUrl.read("postgresql://db/x?sslmode=verify-full&sslrootcert=/not/there.pem")

        with pytest.raises(ValueError, match=r"names a file in sslrootcert that cannot be read: /not/there\.pem"):
            url.arguments("name")

    def test_of_several_hosts_the_one_that_accepts_writes_is_chosen(self) -> None:
        assert DatabaseUrl.read("postgresql://a,b/x").arguments("name")["target_session_attrs"] == "read-write"
        assert DatabaseUrl.read("postgresql://a/x").arguments("name")["target_session_attrs"] == "any"
        given = DatabaseUrl.read("postgresql://a,b/x?target_session_attrs=any").arguments("name")
        assert given["target_session_attrs"] == "any"
