"""What an operator orders: providers paused, nodes drained, exports released by force; and by whom."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.create_table(
        "pauses",
        sa.Column("provider", sa.Text(), nullable=False),
        sa.Column("pause", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("provider"),
    )
    op.add_column("nodes", sa.Column("drain", sa.Text(), nullable=True))
    op.add_column("exports", sa.Column("is_forced", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.add_column("audit_events", sa.Column("provider", sa.Text(), nullable=True))
    op.add_column("audit_events", sa.Column("ordered_by", sa.Text(), nullable=True))
    # When an export ended, by the boot clock: the wall clock may jump past the time that it is kept.
    op.add_column("exports", sa.Column("over_boottime", sa.Double(), nullable=True))
