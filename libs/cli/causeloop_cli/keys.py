"""`causeloop keys`: the environment of one service, and the bus credentials of all.

    causeloop keys auth             its keys and, with DATABASE_URL, its roles' addresses; derived, the same every time
    causeloop keys --nats seeds     new nkey seeds for every service and the operator; made anew every time
    causeloop keys --nats config    sizes and accounts of the server's configuration, for the seeds in the environment
    causeloop keys --nats           new seeds, and the configuration for them

Lines are NAME=value without quotes, as container engines and process managers read them. A service's lines
hold nothing of another one: a reader of audit's environment cannot act as auth.
"""

import argparse
import os
from collections.abc import Iterator, Mapping

import nkeys

from causeloop_cli import services
from causeloop_common.contracts import topology
from causeloop_common.keys import KeyRing, reader_seed
from causeloop_common.rls import roles
from causeloop_common.settings import SHORTEST_SECRET, SettingsError, is_guessable, migrator_url, role_url


def main(options: argparse.Namespace) -> int:
    """Print what was asked for, to standard output and nowhere else."""
    if bool(options.service) == bool(options.nats):
        raise SettingsError("Name one service, or ask for --nats.")
    lines = of_service(options.service, os.environ) if options.service else of_bus(options.nats, os.environ)
    print("\n".join(lines))
    return 0


def of_service(service: str, environ: Mapping[str, str]) -> Iterator[str]:
    """The environment lines of one service."""
    secret = _secret(environ)
    yield f"CAUSELOOP_KEYS_{service.upper()}={KeyRing.derive(secret, service, topology.pairs()).dump()}"
    if environ.get("DATABASE_URL") and service in topology.OWNERS:
        url = migrator_url(environ).text()
        for role in roles(services.tables(service)):
            yield f"DATABASE_URL_{role.removeprefix('causeloop_').upper()}={role_url(url, role, secret)}"


def of_bus(part: str, environ: Mapping[str, str]) -> Iterator[str]:
    """The seeds, the server's configuration for them, or both."""
    seeds = _given_seeds(environ) if part == "config" else new_seeds()
    if part in ("seeds", "both"):
        for name, seed in seeds.items():
            yield f"{_variable(name)}={seed}"
    if part == "both":
        yield ""
    if part in ("config", "both"):
        yield nats_config(seeds).rstrip()


def new_seeds() -> dict[str, str]:
    """New nkey seeds for every service and the operator."""
    names = (*topology.SERVICES, topology.OPERATOR)
    return {name: nkeys.encode_seed(os.urandom(32), nkeys.PREFIX_BYTE_USER).decode() for name in names}


def nats_config(seeds: Mapping[str, str]) -> str:
    """The part of the server's configuration that every installation has; public keys only."""
    public_keys = {name: public_key(seed) for name, seed in seeds.items()}
    public_keys |= {topology.reader(name): public_key(reader_seed(seeds[name])) for name in topology.readers()}
    return topology.nats_config(public_keys)


def public_key(seed: str) -> str:
    """The public half of an nkey seed."""
    return str(nkeys.from_seed(bytearray(seed.encode())).public_key.decode())


def _secret(environ: Mapping[str, str]) -> bytes:
    secret = environ.get("JWT_SECRET", "")
    if not secret:
        raise SettingsError(
            "Set JWT_SECRET to the installation's secret: every key is derived from it. A new installation makes one "
            "with `openssl rand -base64 48`."
        )
    if is_guessable(secret):  # the keys do not show it to the service that is given them
        raise SettingsError(
            f"JWT_SECRET is the development one, guessable or shorter than {SHORTEST_SECRET} characters: set it to the "
            "output of `openssl rand -base64 48`."
        )
    return secret.encode()


def _given_seeds(environ: Mapping[str, str]) -> dict[str, str]:
    names = (*topology.SERVICES, topology.OPERATOR)
    if missing := [_variable(name) for name in names if not environ.get(_variable(name))]:
        raise SettingsError(f"Set {', '.join(missing)}: `causeloop keys --nats seeds` makes them.")
    seeds = {name: environ[_variable(name)] for name in names}
    for name, seed in seeds.items():
        try:
            good = public_key(seed).startswith("U")
        except (nkeys.NkeysError, ValueError):
            good = False
        if not good:
            raise SettingsError(f"{_variable(name)} is not the seed of a user's nkey (SU…).")
    return seeds


def _variable(name: str) -> str:
    return f"NATS_NKEY_SEED_{name.upper()}"
