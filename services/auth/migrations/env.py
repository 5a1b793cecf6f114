"""Alembic's entry to the schema of auth."""

from alembic import context

from causeloop_auth.models import metadata
from causeloop_common import migrations

migrations.run(context, metadata)
