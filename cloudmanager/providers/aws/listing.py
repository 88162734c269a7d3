"""Lists volumes: every region in scope, every page, one page at a time."""

from cloudmanager.core.errors import InvalidRequest
from cloudmanager.core.model import Query
from cloudmanager.providers.aws.api import Regions, filter_by, literal
from cloudmanager.providers.aws.facts import Document, Volume
from cloudmanager.providers.aws.settings import region_of


class Listing:
    """Zone, tags and state are EC2's filters. A part of the name is looked for here: EC2 minds letter case."""

    def __init__(self, regions: Regions, names: tuple[str, ...]) -> None:
        """`names` are the regions in scope."""
        self._regions = regions
        self._names = names

    def find(self, query: Query, token: str | None) -> tuple[list[Volume], str | None]:
        """A page's token is `region` or `region/EC2's own token`. A page may be empty and have a next one."""
        names = self._in_scope(query.location)
        if not names:
            return [], None
        region, _, inner = (token or names[0]).partition("/")
        if region not in names:
            raise InvalidRequest("The page token is not one that this list gave: ask for the first page again.")
        found, following = self._regions[region].volumes(_filters(query), inner or None)
        kept = [volume for volume in found if _matches(volume, query.text) and not volume.state.is_gone]
        if following is not None:
            return kept, f"{region}/{following}"
        return kept, next(iter(names[names.index(region) + 1 :]), None)

    def _in_scope(self, location: str) -> tuple[str, ...]:
        if not location:
            return self._names
        return tuple(name for name in self._names if name in (location, region_of(location)))


def _filters(query: Query) -> list[Document]:
    filters = [filter_by(f"tag:{key}", literal(value)) for key, value in query.labels.items()]
    if region_of(query.location):
        filters.append(filter_by("availability-zone", literal(query.location)))
    if query.state:
        filters.append(filter_by("status", literal(query.state)))
    return filters


def _matches(volume: Volume, text: str) -> bool:
    wanted = text.casefold()
    return wanted in volume.name.casefold() or wanted in volume.id
