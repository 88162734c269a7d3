"""The store's history: Alembic revisions, applied when the store is opened."""
