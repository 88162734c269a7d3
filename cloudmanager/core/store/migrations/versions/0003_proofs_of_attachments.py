"""An attachment that was confirmed as ours says so in its plan: until now its state did."""

import json

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    connection = op.get_bind()
    table = sa.table("attachments", *map(sa.column, ("node", "canonical_id", "plan", "state")))
    confirmed = sa.select(table).where(table.c.state.in_(("attached", "detaching", "stuck")))
    for row in connection.execute(confirmed).all():
        plan = json.dumps({**json.loads(row.plan), "proof": "confirmed"})
        this_one = sa.and_(table.c.node == row.node, table.c.canonical_id == row.canonical_id)
        connection.execute(sa.update(table).where(this_one).values(plan=plan))
