"""Organisations, projects and API keys in memory: few records that every request needs.

Filled from the store at start and by the applier afterwards; the records stay the truth.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from memsync.core.records import Record
from memsync.ids import RecordKey
from memsync.ports import Change, Store
from memsync.wire.operations import ApiKeyOrigin, OrganisationOrigin, ProjectOrigin

KINDS = ("organisation", "project", "api_key")


class Directory:
    """Look-ups by what requests carry: the hash of a key, a slug, an id."""

    def __init__(self) -> None:
        self._keys: dict[bytes, Record] = {}
        self._hashes: dict[RecordKey, bytes] = {}  # of each key's record, the hash that it has
        self._organisations: dict[str, Record] = {}
        self._projects: dict[tuple[int, str], Record] = {}

    async def load(self, store: Store) -> None:
        """Take everything that the store holds."""
        for kind in KINDS:
            self._take(await store.of_kind(kind))

    def apply(self, changes: Sequence[Change]) -> None:
        """Take the changes of a batch."""
        self._take(change.after for change in changes if change.after.kind in KINDS)

    def key_by_hash(self, digest: bytes) -> Record | None:
        """The API key with this hash, whatever its state."""
        return self._keys.get(digest)

    def keys_of(self, organisation: int) -> list[Record]:
        """The API keys of an organisation, newest first."""
        own = [r for r in self._keys.values() if r.scope.organisation == organisation]
        return sorted(own, key=lambda record: record.ids[:1], reverse=True)

    def organisation(self, organisation: int) -> Record | None:
        """The organisation with this id."""
        found = (r for r in self._organisations.values() if r.scope.organisation == organisation)
        return next(found, None)

    def organisation_by_slug(self, slug: str) -> Record | None:
        """The organisation with this slug."""
        return self._organisations.get(slug)

    def project(self, organisation: int, name: str) -> Record | None:
        """The project with this id (`proj_...`) or slug."""
        return self._projects.get((organisation, name))

    def _take(self, records: Iterable[Record]) -> None:
        for record in records:
            if (former := self._hashes.pop(record.key, None)) is not None:
                self._keys.pop(former, None)  # the join may have left another origin, or none
            match record.origin:
                case ApiKeyOrigin(hash=digest):
                    self._hashes[record.key] = digest
                    self._keys[digest] = record
                case OrganisationOrigin(slug=slug):
                    self._organisations[slug] = record
                case ProjectOrigin(slug=slug):
                    self._projects[record.scope.organisation, slug] = record
                    self._projects[record.scope.organisation, record.scope.project] = record
                case _:
                    pass  # an update that came before its create: nothing to find it by yet
