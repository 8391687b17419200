"""Where Alembic gets its connection: the transaction that `migrate.py` runs it in."""

from alembic import context

from metadata.schema import tables

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=tables,
    transactional_ddl=True,
)
with context.begin_transaction():
    context.run_migrations()
