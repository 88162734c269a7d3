"""The database: whether it answers, where it is another's, and whether this version knows what is in it."""

from collections.abc import Iterator

from sqlalchemy import create_engine, make_url, text
from sqlalchemy.exc import SQLAlchemyError

from cloudmanager.core.model import Finding, Severity
from cloudmanager.core.settings import Settings
from cloudmanager.core.store.check import newer_schema

SUBJECT = "store"


def check_store(settings: Settings) -> Iterator[Finding]:
    if settings.store.url:
        yield _check(settings.store.url)
    if newer := newer_schema(settings.store_url):
        yield newer


def _check(url: str) -> Finding:
    try:
        parsed = make_url(url)
        engine = create_engine(parsed)
    except (SQLAlchemyError, ImportError) as error:
        advice = "[store] url is postgresql+psycopg://USER@HOST/DATABASE; its driver is in cloudmanager[postgres]."
        return Finding(SUBJECT, Severity.PROBLEM, f"cannot be used: {error}", advice)
    try:
        with engine.connect() as connection:
            connection.execute(text("SELECT 1"))
    except SQLAlchemyError as error:
        reason = str(getattr(error, "orig", None) or error).strip()
        return Finding(
            SUBJECT,
            Severity.PROBLEM,
            f"{parsed.render_as_string(hide_password=True)} does not answer: {reason}",
            "Start the database, let this user in, or correct [store] url.",
        )
    finally:
        engine.dispose()
    return Finding(SUBJECT, Severity.OK, f"{parsed.render_as_string(hide_password=True)} answers")
