"""Which service has a node's name, and until when."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    for name in ("identity", "machine", "session"):
        op.add_column("nodes", sa.Column(name, sa.Text(), nullable=True))
    op.add_column("nodes", sa.Column("alive_until", sa.Double(), nullable=True))
