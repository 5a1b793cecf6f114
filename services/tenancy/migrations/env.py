"""Alembic's entry to the schema of tenancy."""

from alembic import context

from causeloop_common import migrations
from causeloop_tenancy.models import metadata

migrations.run(context, metadata)
