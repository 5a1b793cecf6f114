"""Composition root of the vault."""

from collections.abc import Mapping

from causeloop_common.application import Application
from causeloop_common.contracts.vault import PURPOSES
from causeloop_vault import handlers
from causeloop_vault.adapters.local_keys import LocalMasterKeys
from causeloop_vault.models import metadata
from causeloop_vault.service import CheckpointService, Keyrings, KeyService, SealingService, SecretService
from causeloop_vault.settings import VaultSettings


def create(environ: Mapping[str, str]) -> Application:
    """The vault, ready to be run."""
    settings = VaultSettings.load("vault", environ)
    application = Application(settings)
    database = application.database(metadata)
    keyrings = Keyrings(database, LocalMasterKeys(settings.keys()))
    secrets, keys = SecretService(database, keyrings), KeyService(database, keyrings)
    sealing = SealingService(database, keyrings, PURPOSES)
    checkpoints = CheckpointService(database, keyrings, settings.origin)
    application.relay(database)
    application.jobs(database)
    application.commands(handlers.router(secrets, keys, sealing, checkpoints))
    application.before_serving(keyrings.check_master_key)
    application.before_serving(checkpoints.open_signing_key)
    application.check("master_key", keyrings.check_master_key)
    return application
