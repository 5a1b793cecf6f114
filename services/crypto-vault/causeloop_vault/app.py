"""Composition root of the vault."""

from collections.abc import Mapping

from causeloop_common.application import Application
from causeloop_common.contracts import vault
from causeloop_vault import handlers
from causeloop_vault.adapters.local_keys import LocalMasterKeys
from causeloop_vault.models import metadata
from causeloop_vault.service import (
    CheckpointService,
    Keyrings,
    KeyService,
    Reencryption,
    RotationService,
    SealingService,
    SecretService,
)
from causeloop_vault.settings import VaultSettings

REMEMBERED = 10_000
"""Tenants' keyrings, and named keys, that are held in clear at once."""
REMEMBERED_SECONDS = 300.0


def create(environ: Mapping[str, str]) -> Application:
    """The vault, ready to be run."""
    settings = VaultSettings.load("vault", environ)
    application = Application(settings)
    database = application.database(metadata)
    data_keys, named_keys = (
        application.memories.memory(name, seconds=REMEMBERED_SECONDS, most=REMEMBERED)
        for name in ("data_keys", "named_keys")
    )
    keyrings = Keyrings(database, LocalMasterKeys(settings.keys()), data_keys)
    secrets, keys = SecretService(database, keyrings), KeyService(database, keyrings, named_keys)
    rotation = RotationService(database, keyrings, Reencryption())
    sealing = SealingService(database, keyrings, vault.PURPOSES)
    checkpoints = CheckpointService(database, keyrings, settings.origin)
    application.relay(database)
    application.jobs(database, rotation.reencrypt_keyring)
    application.commands(handlers.router(secrets, keys, rotation, sealing, checkpoints))
    application.events(handlers.events(keyrings, sealing))
    application.before_serving(keyrings.check_master_key)
    application.before_serving(checkpoints.open_signing_key)
    application.check("master_key", keyrings.check_master_key)
    return application
