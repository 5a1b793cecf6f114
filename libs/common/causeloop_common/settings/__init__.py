"""Settings of every service, read from the environment once, at the composition root.

values      kinds of values, each checked where it is read
roles       the installation's root secret, and the database's address for each role
bus         the bus's address
telemetry   where traces and metrics go
outbound    which destinations outside are reached, and how
service     the settings of every service

Each field has its variable and a description; the configuration reference is made from here. Secrets are
`SecretStr`. A production process refuses unsafe values, each with a sentence that names what to set.
"""

from causeloop_common.settings.bus import require_bus_url
from causeloop_common.settings.roles import (
    DEVELOPMENT_SECRET,
    SHORTEST_SECRET,
    is_guessable,
    migrator_url,
    role_password,
    role_url,
    with_role,
)
from causeloop_common.settings.service import RoleSettings, Settings
from causeloop_common.settings.values import (
    Authority,
    DatabaseAddress,
    Host,
    ListeningPort,
    Network,
    Origins,
    Seed,
    SettingsError,
    is_place,
    own_name,
    read_headers,
    read_key,
)

__all__ = [
    "DEVELOPMENT_SECRET",
    "SHORTEST_SECRET",
    "Authority",
    "DatabaseAddress",
    "Host",
    "ListeningPort",
    "Network",
    "Origins",
    "RoleSettings",
    "Seed",
    "Settings",
    "SettingsError",
    "is_guessable",
    "is_place",
    "migrator_url",
    "own_name",
    "read_headers",
    "read_key",
    "require_bus_url",
    "role_password",
    "role_url",
    "with_role",
]
