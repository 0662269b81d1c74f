"""The client library's typed methods: one for each operation, with structs in and out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar, Unpack, cast

import msgspec

from memsync import errors
from memsync.client.answers import Reply
from memsync.client.calling import Caller, Options, Settings
from memsync.client.finding import Target
from memsync.client.options import (
    OPTIONS,
    AddOptions,
    BulkAddOptions,
    FeedbackOptions,
    ForgetOptions,
    GraphOptions,
    Items,
    KeyOptions,
    ListOptions,
    QueryOptions,
    ReadOptions,
    RelateOptions,
    UpdateOptions,
    WriteOptions,
)
from memsync.wire import codec, relations, replies, requests
from memsync.wire.relations import FeedbackSignal, RelationshipType

Body = TypeVar("Body", bound=msgspec.Struct)
Ids = list[int]  # inside the class `list` is a method


class Client(Caller):
    """The memories of one end user of a cluster, and of others by `end_user`.

    Every method is checked here before anything is sent, is retried until its time is up, and
    raises `memsync.errors.MemsyncError`: `code` says what happened, `definite` whether it is
    certain that nothing did, `retryable` whether the same call may succeed later.
    """

    def __init__(self, target: Target, settings: Settings) -> None:
        super().__init__(target, settings)
        self.keys = Keys(self)

    async def __aenter__(self) -> Client:
        await self._open()
        return self

    async def add(
        self, text: str, **options: Unpack[AddOptions]
    ) -> replies.Memory | replies.AddSkipped:
        """Store one memory. `AddSkipped` where that text, or its `client_ref`, is there already."""
        reply = await self._ask(
            "memory.add", requests.AddRequest, _add_problems, options, text=text
        )
        if reply.status == 201:
            return reply.read(replies.Memory)
        _check_quota(reply)
        return reply.read(replies.AddSkipped)

    async def bulk_add(self, items: Items, **options: Unpack[BulkAddOptions]) -> replies.BulkAdded:
        """Store up to 50 memories, as a whole or not at all. An item is a text, a mapping of the
        fields of `AddItem`, or an `AddItem`; the answer tells of each what became of it."""
        given = [{"text": item} if isinstance(item, str) else item for item in items]
        reply = await self._ask(
            "memory.bulk_add",
            requests.BulkAddRequest,
            requests.bulk_problems,
            options,
            items=given,
        )
        _check_quota(reply)
        return reply.read(replies.BulkAdded)

    async def query(self, question: str, **options: Unpack[QueryOptions]) -> replies.QueryAnswer:
        """Recall by meaning, the best first. Part of the cluster may have been missing: then the
        answer is `degraded` and `degraded_components` names what."""
        reply = await self._ask(
            "memory.query",
            requests.QueryRequest,
            requests.query_problems,
            options,
            query=question,
        )
        return reply.read(replies.QueryAnswer)

    async def get(self, memory_id: int, **options: Unpack[ReadOptions]) -> replies.Memory:
        """Read one memory; raises `NotFound`."""
        reply = await self._ask(
            "memory.get", requests.GetRequest, _no_problems, options, memory_id=memory_id
        )
        return reply.read(replies.Memory)

    async def update(self, memory_id: int, **options: Unpack[UpdateOptions]) -> replies.Memory:
        """Change what stands beside the text; what is None stays. With `if_version` only if it is
        still that version, else raises `VersionConflict`."""
        reply = await self._ask(
            "memory.update",
            requests.UpdateRequest,
            requests.update_problems,
            options,
            memory_id=memory_id,
        )
        return reply.read(replies.Memory)

    async def forget(
        self, memory_ids: Sequence[int] | int | None = None, **options: Unpack[ForgetOptions]
    ) -> Ids:
        """Forget memories by their ids or by `filters`; the ids of those that were there."""
        named = [memory_ids] if isinstance(memory_ids, int) else memory_ids
        reply = await self._ask(
            "memory.forget",
            requests.ForgetRequest,
            requests.forget_problems,
            options,
            memory_ids=named,
        )
        return reply.read(Ids)

    async def list(self, **options: Unpack[ListOptions]) -> replies.MemoryPage:
        """A page of all memories, the newest first."""
        reply = await self._ask("memory.list", requests.ListRequest, _no_problems, options)
        return reply.read(replies.MemoryPage)

    async def relate(
        self,
        memory_id: int,
        to_memory_id: int,
        relationship_type: RelationshipType,
        **options: Unpack[RelateOptions],
    ) -> replies.RelationInfo:
        """Say how a memory stands to another; each end is then recalled more easily where the other
        is found. Of one type there is one relation between two memories: the newest counts."""
        reply = await self._ask(
            "memory.relate",
            relations.RelateRequest,
            relations.relate_problems,
            options,
            memory_id=memory_id,
            to_memory_id=to_memory_id,
            relationship_type=relationship_type,
        )
        return reply.read(replies.RelationInfo)

    async def feedback(
        self, memory_id: int, signal: FeedbackSignal, **options: Unpack[FeedbackOptions]
    ) -> replies.FeedbackTaken:
        """Say what a memory was worth: this moves its importance, further where signals agree."""
        reply = await self._ask(
            "memory.feedback",
            relations.FeedbackRequest,
            relations.feedback_problems,
            options,
            memory_id=memory_id,
            signal=signal,
        )
        return reply.read(replies.FeedbackTaken)

    async def graph(
        self, memory_id: int | None = None, **options: Unpack[GraphOptions]
    ) -> replies.Graph:
        """A memory with what is related to it, up to `depth` relations away; without an id the
        newest memories, those that have relations first."""
        reply = await self._ask(
            "memory.graph", relations.GraphRequest, _no_problems, options, memory_id=memory_id
        )
        return reply.read(replies.Graph)

    async def explanation(
        self, query_id: str, **options: Unpack[ReadOptions]
    ) -> replies.Explanation:
        """Why a recall was answered as it was, by the `query_id` of its answer; for 7 days."""
        reply = await self._ask(
            "memory.explanation",
            relations.ExplanationRequest,
            _no_problems,
            options,
            query_id=query_id,
        )
        return reply.read(replies.Explanation)

    async def _ask(
        self,
        operation: str,
        kind: type[Body],
        problems: Callable[[Body], requests.Problems],
        options: Mapping[str, Any],
        **fields: Any,
    ) -> Reply:
        """Check and send the fields that were given; an option is what is no field."""
        given = {name: value for name, value in options.items() if name not in OPTIONS}
        how = {name: value for name, value in options.items() if name in OPTIONS}
        body = _plain({**fields, **given})
        requests.check(problems(_decoded(body, kind)))
        return await self.call(operation, body, **cast(Options, how))


class Keys:
    """API keys of the caller's organisation; they need a key with the scope `org:admin`."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def create(self, **options: Unpack[KeyOptions]) -> replies.ApiKeyInfo:
        """Make a key; its secret (`key`) is in this answer and in no other."""
        reply = await self._client._ask(
            "keys.create", requests.KeyCreateRequest, requests.key_problems, options
        )
        return reply.read(replies.ApiKeyInfo)

    async def list(self, **options: Unpack[ListOptions]) -> replies.ApiKeyPage:
        """A page of all keys, the newest first, without their secrets."""
        reply = await self._client._ask("keys.list", requests.KeyListRequest, _no_problems, options)
        return reply.read(replies.ApiKeyPage)

    async def revoke(self, key_id: int, **options: Unpack[WriteOptions]) -> replies.ApiKeyInfo:
        """Revoke a key, at once and for ever."""
        reply = await self._client._ask(
            "keys.revoke", requests.KeyRevokeRequest, _no_problems, options, key_id=key_id
        )
        return reply.read(replies.ApiKeyInfo)


def _no_problems(_: msgspec.Struct) -> requests.Problems:
    return []


def _add_problems(request: requests.AddRequest) -> requests.Problems:
    return requests.text_problems(request) + requests.item_problems(request)


def _plain(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that were given, as JSON has them; those that are None are not sent."""
    try:
        return {
            name: _without_none(name, value) for name, value in fields.items() if value is not None
        }
    except (TypeError, OverflowError, RecursionError, ValueError) as error:
        raise codec.invalid("body", f"cannot be sent as JSON: {error}") from error


def _without_none(name: str, value: Any) -> Any:
    """Structs and mappings of ours without their empty fields; metadata stays as it is."""
    plain = msgspec.to_builtins(value)
    if name == "items":
        return [_without_none("filters", item) for item in plain]
    if name == "filters" and isinstance(plain, dict):
        return {field: found for field, found in plain.items() if found is not None}
    return plain


def _decoded(body: dict[str, Any], kind: type[Body]) -> Body:
    try:
        return msgspec.convert(body, kind)
    except msgspec.ValidationError as error:
        raise codec.invalid(*codec.field_and_reason(error)) from error


def _check_quota(reply: Reply) -> None:
    """Raise where the plan's quota is used up: the answer is then a bare `{"status": "ok"}`."""
    if reply.read(dict[str, msgspec.Raw]).keys() == {"status"}:
        raise errors.RateLimited("nothing was stored: the plan's quota is used up")
