"""PostgreSQL and NATS from containers, for `pytest --containers`: the same servers as production images have.

Needs a container engine and the two images; testcontainers removes the containers when this process ends.
"""

import asyncio
import contextlib
import secrets
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from causeloop_cli.embedded.process import ServerFailed
from causeloop_common.settings import with_role
from causeloop_dev.preparing import prepare

POSTGRES_IMAGE = "postgres:16"
NATS_IMAGE = "nats:2"
_CONFIG = "jetstream {{ store_dir: /data }}\n{more}"


@contextlib.contextmanager
def containers(nats_config: str) -> Iterator[tuple[str, str, str]]:
    """The addresses of migrator and superuser on the database `causeloop`, and of the bus."""
    from docker.errors import DockerException  # type: ignore[import-untyped]
    from testcontainers.community.postgres import PostgresContainer
    from testcontainers.core.container import DockerContainer
    from testcontainers.core.wait_strategies import LogMessageWaitStrategy

    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        config = Path(folder) / "nats.conf"
        config.write_text(_CONFIG.format(more=nats_config))
        password = secrets.token_urlsafe(24)
        try:
            postgres = stack.enter_context(
                PostgresContainer(
                    POSTGRES_IMAGE, username="postgres", password=password, dbname="postgres", driver=None
                )
            )
            nats = stack.enter_context(
                DockerContainer(NATS_IMAGE)
                .with_command("-c /etc/nats/causeloop.conf")
                .with_volume_mapping(str(config), "/etc/nats/causeloop.conf")
                .with_exposed_ports(4222)
                .waiting_for(LogMessageWaitStrategy("Server is ready"))
            )
        except DockerException as error:
            raise ServerFailed(
                "No container engine answers here. Start one that has the images "
                f"{POSTGRES_IMAGE} and {NATS_IMAGE}, or leave out --containers."
            ) from error
        superuser_url = postgres.get_connection_url()
        migrator_password = secrets.token_urlsafe(24)
        asyncio.run(prepare(superuser_url, "causeloop", "causeloop_migrator", migrator_password))
        database_url = urlsplit(superuser_url)._replace(path="/causeloop").geturl()
        yield (
            with_role(database_url, "causeloop_migrator", migrator_password),
            database_url,
            f"nats://{nats.get_container_host_ip()}:{nats.get_exposed_port(4222)}",
        )
