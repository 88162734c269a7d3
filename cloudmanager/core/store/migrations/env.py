"""Run by Alembic with the connection that the store opened."""

from alembic import context

from cloudmanager.core.store.schema import metadata

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=metadata, render_as_batch=True)
with context.begin_transaction():
    context.run_migrations()
