"""What must survive a crash: exports and their claims, attachments, nodes, maintenance actions, audit events.

SQLite (WAL, synchronous=FULL: an intent that power loss can undo is no intent) or PostgreSQL. Every method is one
transaction. A change of state names the states that it starts from, so that a late writer cannot undo a newer one.
"""

from cloudmanager.core.store.store import Store

__all__ = ["Store"]
