"""Composition root of auth."""

from collections.abc import Mapping

from causeloop_auth import handlers
from causeloop_auth.adapters.identity_provider import LIMITS, IdentityProvider
from causeloop_auth.models import metadata
from causeloop_auth.service import SessionService, TokenService
from causeloop_auth.settings import AuthSettings
from causeloop_common.application import Application


def create(environ: Mapping[str, str]) -> Application:
    """Auth, ready to be run."""
    settings = AuthSettings.load("auth", environ)
    application = Application(settings)
    database = application.database(metadata)
    provider = IdentityProvider(
        settings.jwks_url,
        application.outbound.operators("identity_provider", LIMITS),
        authorized_parties=settings.authorized_parties,
        audience=settings.audience,
    )
    access_key, refresh_key = application.keys.own("access-token/v1"), application.keys.own("refresh-token/v1")
    sessions = SessionService(
        database, application.bus, provider, access_key, refresh_key, access_seconds=settings.access_token_seconds
    )
    tokens = TokenService(database, access_key)
    application.relay(database)
    application.jobs(database)
    application.commands(handlers.router(sessions, tokens))
    application.background("identity_provider", provider.keep)
    application.state("identity_provider", provider.check)
    application.examination("identity provider", provider.examine)
    application.after_serving(provider.close)
    return application
