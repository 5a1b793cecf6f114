"""Embedded servers: PostgreSQL and NATS as child processes, for development, tests and benchmarks.

    with Janitor() as janitor, EmbeddedPostgres(janitor=janitor) as postgres:
        url = postgres.prepare()

`process` keeps children from outliving their supervisor, `janitor` is the program that cleans up when the
supervisor was killed, `server` is the life that both servers share. Production brings its own servers by
DATABASE_URL and NATS_URL and needs nothing from here.
"""

from causeloop_cli.embedded.nats import EmbeddedNats
from causeloop_cli.embedded.process import Janitor, ServerFailed, death_pact

__all__ = ["EmbeddedNats", "Janitor", "ServerFailed", "death_pact"]
