"""The secrets of a local installation: made at random, kept only when the data is kept.

Development gets from here what an operator gives production: the root secret, the master key, and an nkey for
every service and the operator.
"""

import base64
import json
import os
import secrets
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

import nkeys

from causeloop_cli.embedded.process import ServerFailed
from causeloop_cli.keys import nats_config, new_seeds, of_service
from causeloop_dev.folder import write_private_json

_FILE = "installation.json"
_IGNORED = ".gitignore"

UNLIMITED = {"RATE_LIMIT_FACTOR": "100000"}
"""A gateway's environment where one address sends as much as it can: in tests and benchmarks."""


@dataclass(frozen=True)
class Installation:
    """The secrets of one installation."""

    jwt_secret: str
    master_key: str
    seeds: dict[str, str]

    @classmethod
    def new(cls) -> Self:
        """A new installation."""
        return cls(secrets.token_urlsafe(48), base64.b64encode(os.urandom(32)).decode(), new_seeds())

    @classmethod
    def kept_in(cls, folder: Path) -> Self:
        """The installation of a lasting data folder, made at its first use (0600). ServerFailed for a foreign one."""
        path = folder / _FILE
        if path.exists():
            try:
                found = cls(**json.loads(path.read_text()))
                found.nats_config()
                found.jwt_secret.encode()
                return found
            except (ValueError, TypeError, KeyError, AttributeError, nkeys.NkeysError, IsADirectoryError) as error:
                raise ServerFailed(f"{path} has not the secrets of this data folder: put the file back.") from error
        folder.mkdir(parents=True, exist_ok=True)
        if others := {entry.name for entry in folder.iterdir()} - {_IGNORED, f"{_FILE}.new"}:
            raise ServerFailed(
                f"{folder} has files of something else, such as {min(others)[:100]}. Name a new or an empty folder: "
                "`make dev DATA=../causeloop-data`, or `causeloop dev --data ../causeloop-data`."
            )
        (folder / _IGNORED).write_text("*\n")  # it has secrets, which no commit should have
        made = cls.new()
        write_private_json(path, asdict(made))
        return made

    def nats_config(self) -> str:
        """The part of the server's configuration that every installation has; public keys only."""
        return nats_config(self.seeds)

    def environ(self, service: str, database_url: str, nats_url: str) -> dict[str, str]:
        """The environment of one service: its own keys and credentials, nobody else's, and not the root secret."""
        lines = of_service(service, {"JWT_SECRET": self.jwt_secret, "DATABASE_URL": database_url})
        environ = {
            "CAUSELOOP_ENV": "development",
            f"NATS_NKEY_SEED_{service.upper()}": self.seeds[service],
            "NATS_URL": nats_url,
            **dict(line.split("=", 1) for line in lines),
        }
        if service == "vault":
            environ["CAUSELOOP_MASTER_KEY"] = self.master_key
        return environ
