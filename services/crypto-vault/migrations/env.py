"""Alembic's entry to the vault's schema."""

from alembic import context

from causeloop_common import migrations
from causeloop_vault.models import metadata

migrations.run(context, metadata)
