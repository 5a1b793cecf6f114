"""Use cases of auth, one file per noun: sessions, and tokens."""

from causeloop_auth.service.sessions import SessionService, Subject
from causeloop_auth.service.tokens import TokenService

__all__ = ["SessionService", "Subject", "TokenService"]
