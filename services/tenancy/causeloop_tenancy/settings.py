"""Settings of tenancy."""

from causeloop_common.settings import Settings


class TenancySettings(Settings):
    """The common settings."""
