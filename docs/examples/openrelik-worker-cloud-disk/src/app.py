"""The Celery application that OpenRelik's workers share: Redis carries the tasks and their results."""

import os

from celery.app import Celery

REDIS_URL = os.getenv("REDIS_URL") or "redis://localhost:6379/0"
celery = Celery(broker=REDIS_URL, backend=REDIS_URL, include=["src.tasks"])
celery.conf.worker_hijack_root_logger = False
