"""What `causeloop dev` runs: which processes, each with exactly its own environment, and what each does.

A process logs everything to its file; a warning and worse is shown on the supervisor's terminal as well, in one line.
"""

import asyncio
import json
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TextIO

from causeloop_cli.embedded import ServerFailed
from causeloop_cli.embedded.nats import LOOPBACK, free_port, is_free
from causeloop_common.contracts.topology import OPERATOR, SERVICES
from causeloop_dev.forked import Body
from causeloop_dev.installation import Installation

ALL_IN_ONE = "services"
"""The name of the one process of `--one-process`."""

FEW_WORKERS = "4"
"""Connections of each service in one process, unless set otherwise: each costs PostgreSQL 4 MB."""

PASSED_ON = (
    "ACCESS_TOKEN_SECONDS",
    "ANTHROPIC_API_KEY",
    "CORS_ORIGINS",
    "DATABASE_WORKERS",
    "OPENAI_API_KEY",
    "OTEL_EXPORTER_OTLP_CERTIFICATE",
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "OTEL_EXPORTER_OTLP_HEADERS",
    "OTEL_TRACES_SAMPLER_ARG",
    "OUTBOUND_CA_FILE",
    "OUTBOUND_HTTP",
    "OUTBOUND_PROXY",
    "OUTBOUND_PROXY_EXCEPT",
    "OUTBOUND_TENANT_PORTS",
    "OUTBOUND_TENANT_PROXY",
    "OUTBOUND_TENANT_PROXY_RESOLVES",
    "OUTBOUND_TENANT_RANGES",
    "RATE_LIMIT_FACTOR",
    "TRUSTED_PROXIES",
)
"""Variables that a developer may set: each is passed on to the services that declare it, and to no other."""

_PORTS = "ports.json"
_REPEATED_SECONDS = 10.0


@dataclass(frozen=True)
class Addresses:
    """Where everything listens, all on the loopback. A process answers for its services on one operations port."""

    gateway_port: int
    issuer_port: int
    ops_ports: dict[str, int]

    @classmethod
    def chosen(cls, gateway_port: int, processes: Sequence[str], data: Path | None) -> "Addresses":
        """Free ports. A lasting data folder keeps the issuer's, because people are known by their issuer's address."""
        kept = data / _PORTS if data else None
        issuer = _kept_port(kept) if kept and kept.exists() else None
        if issuer is not None and not is_free(issuer):
            raise ServerFailed(
                f"Port {issuer}, the mock issuer's in {data}, is taken by another program. Stop that one: the people "
                "of this data folder are known by this address."
            )
        ports = {gateway_port, *([issuer] if issuer else [])}
        while len(ports) < 2 + len(processes):
            ports.add(free_port())
        ports -= {gateway_port, issuer}
        issuer = issuer or ports.pop()
        if kept is not None:
            kept.write_text(json.dumps({"issuer": issuer}))
        return cls(gateway_port, issuer, dict(zip(processes, sorted(ports), strict=True)))

    @property
    def gateway_url(self) -> str:
        """Where clients call."""
        return f"http://{LOOPBACK}:{self.gateway_port}"

    @property
    def issuer_url(self) -> str:
        """The mock issuer; the `iss` of its sessions."""
        return f"http://{LOOPBACK}:{self.issuer_port}"

    @property
    def ops_urls(self) -> dict[str, str]:
        """Health and metrics by service."""
        common = self.ops_ports.get(ALL_IN_ONE)
        return {name: f"http://{LOOPBACK}:{common or self.ops_ports[name]}" for name in SERVICES}


def _kept_port(path: Path) -> int:
    """The issuer's port at an earlier start; ServerFailed for a file that has none."""
    try:
        port = json.loads(path.read_text(encoding="utf-8"))["issuer"]
        if not isinstance(port, int) or not 0 < port < 65536:
            raise ValueError("no port")
    except (ValueError, TypeError, LookupError, RecursionError, IsADirectoryError) as error:
        raise ServerFailed(
            f"{path} has not the port of this data folder's mock issuer, by which its people are known: put the file "
            "back."
        ) from error
    return port


def gateway_port(wanted: int) -> int:
    """The gateway's port, if it is free; any free one for 0."""
    if wanted == 0:
        return free_port()
    if not is_free(wanted):
        raise ServerFailed(
            f"Port {wanted} is taken by another program. Stop that one, or choose another port: "
            f"`make dev PORT={wanted + 1}`, or `causeloop dev --port {wanted + 1}`."
        )
    return wanted


def environs(
    installation: Installation, addresses: Addresses, database_url: str, nats_url: str
) -> dict[str, dict[str, str]]:
    """The environment of every service, and of the operator."""
    made = {}
    for service in SERVICES:
        environ = {name: os.environ[name] for name in PASSED_ON if name in _declared(service) & os.environ.keys()}
        environ |= installation.environ(service, database_url, nats_url)
        environ |= {"LOG_LEVEL": os.environ.get("LOG_LEVEL", "INFO")}
        made[service] = environ
    made["gateway"] |= {"HOST": LOOPBACK, "PORT": str(addresses.gateway_port)}
    made["auth"] |= {
        "CAUSELOOP_AUTH": "mock",
        "CLERK_JWKS_URL": f"{addresses.issuer_url}/.well-known/jwks.json",
        "CLERK_AUTHORIZED_PARTIES": addresses.gateway_url,
    }
    for name, port in addresses.ops_ports.items():
        for service in SERVICES if name == ALL_IN_ONE else (name,):
            made[service]["CAUSELOOP_OPS_PORT"] = str(port)
            if name == ALL_IN_ONE:
                made[service].setdefault("DATABASE_WORKERS", FEW_WORKERS)
    made[OPERATOR] = {"NATS_URL": nats_url, f"NATS_NKEY_SEED_{OPERATOR.upper()}": installation.seeds[OPERATOR]}
    return made


def _declared(service: str) -> frozenset[str]:
    """The variables that a service's settings name."""
    from causeloop_common.settings import Settings, own_name

    kinds = vars(import_module(f"causeloop_{service}.settings")).values()
    return frozenset(
        own_name(field.alias, service)
        for kind in kinds
        if isinstance(kind, type) and issubclass(kind, Settings)
        for field in kind.model_fields.values()
        if field.alias
    )


def serving(names: Sequence[str], environ: Mapping[str, str]) -> Body:
    """Serve these services."""

    def body(terminal: TextIO) -> None:
        from causeloop_cli.serve import serve

        _reported(terminal, lambda: serve(names, environ, also=_on(terminal, ", ".join(names))))

    return body


def issuing(addresses: Addresses) -> Body:
    """Be the mock issuer. Its warning is in the banner, so the terminal is left alone."""

    def body(_: TextIO) -> None:
        from causeloop_dev import issuer

        issuer.run(addresses.issuer_port, addresses.gateway_url)

    return body


def migrating(database_url: str, nats_url: str, installation: Installation) -> Body:
    """Migrate database and bus. In a process of its own, since Alembic would stay in the supervisor's memory."""

    def body(terminal: TextIO) -> None:
        from causeloop_cli import migrate

        work = migrate.everything(database_url, installation.jwt_secret, nats_url, installation.seeds[OPERATOR])
        _reported(terminal, lambda: asyncio.run(work))

    return body


def _reported(terminal: TextIO, work: Callable[[], None]) -> None:
    """Print an error that a person can correct on the terminal; a surprise goes to the log with its traceback."""
    from causeloop_common.errors import AppError
    from causeloop_common.rls import IsolationError
    from causeloop_common.settings import SettingsError

    try:
        work()
    except (SettingsError, IsolationError, AppError, ServerFailed) as error:
        print(f"causeloop dev: {error}", file=terminal)
        raise SystemExit(1) from error


def _on(terminal: TextIO, name: str) -> logging.Handler:
    handler = logging.StreamHandler(terminal)
    handler.setLevel(logging.WARNING)
    handler.setFormatter(_Line(name))
    handler.addFilter(_once_in_a_while())
    return handler


def _once_in_a_while() -> Callable[[logging.LogRecord], bool]:
    """Lets a message through again only after a while: a service that lost something logs it ten times a second."""
    printed: dict[tuple[str, str], float] = {}

    def is_news(record: logging.LogRecord) -> bool:
        place = (record.name, str(record.msg))
        now = time.monotonic()
        news = now - printed.get(place, float("-inf")) > _REPEATED_SECONDS
        if news:
            printed[place] = now
        return news

    return is_news


class _Line(logging.Formatter):
    """A record as one short line; a traceback stays in the log."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self._name = name

    def format(self, record: logging.LogRecord) -> str:
        from causeloop_common.telemetry import redact

        text = " ".join(record.getMessage().split())
        if record.exc_info and record.exc_info[0]:
            text += f" ({record.exc_info[0].__name__}: {record.exc_info[1]})"
        return redact(f"{self._name}: {record.levelname.lower()}: {text}")
