"""The five services as the command line knows them: name, composition root, migrations."""

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path

from causeloop_common.application import Application
from causeloop_common.contracts.topology import SERVICES


def create(service: str, environ: Mapping[str, str]) -> Application:
    """Compose one service."""
    application: Application = import_module(f"causeloop_{service}.app").create(environ)
    return application


def preload() -> None:
    """Import every composition root, so that forked processes share the memory and start at once."""
    for service in SERVICES:
        import_module(f"causeloop_{service}.app")


def migrations() -> dict[str, Path]:
    """The migrations folder of every storing service: beside the package, or inside it when installed as a wheel."""
    found = {}
    for service in SERVICES:
        package = Path(import_module(f"causeloop_{service}").__file__ or "").parent
        for folder in (package / "_migrations", package.parent / "migrations"):
            if (folder / "env.py").exists():
                found[service] = folder
                break
    return found
