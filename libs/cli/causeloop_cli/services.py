"""The five services as the command line knows them: name, composition root, migrations."""

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path

from causeloop_common.application import Application
from causeloop_common.contracts.topology import SERVICES
from causeloop_common.migrations import Schema
from causeloop_common.rls import Tables


def create(service: str, environ: Mapping[str, str]) -> Application:
    """Compose one service."""
    application: Application = import_module(f"causeloop_{service}.app").create(environ)
    return application


def preload() -> None:
    """Import every composition root, so that forked processes share the memory and start at once."""
    for service in SERVICES:
        import_module(f"causeloop_{service}.app")


def tables(service: str) -> Tables:
    """The tables of a storing service, as its models declare them."""
    declared: Tables = import_module(f"causeloop_{service}.models").metadata
    return declared


def schemas() -> dict[str, Schema]:
    """The schema of every storing service. Its migrations are beside the package, or inside it when it is a wheel."""
    found = {}
    for service in SERVICES:
        package = Path(import_module(f"causeloop_{service}").__file__ or "").parent
        for folder in (package / "_migrations", package.parent / "migrations"):
            if (folder / "env.py").exists():
                found[service] = Schema(tables(service), folder)
                break
    return found
