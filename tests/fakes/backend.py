"""A small honest backend: memories in a dictionary, decoded and checked by the real structs.

It finds by shared words, keeps no log and knows one key. It exists to test what stands in front of
a backend; what a real one must do is tested with the real one.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from memsync import errors
from memsync.gateway.exchange import error_to_answer
from memsync.ports import Answer
from memsync.wire import codec, context, relations, replies, requests

KEY = "ms_dev_" + "0" * 48
AT = "2026-01-01T00:00:00.000+00:00"


class Call(msgspec.Struct, frozen=True):
    """What the backend was asked."""

    operation: str
    headers: dict[str, str]
    body: bytes


class MemoryBackend:
    """Answers every operation from memory. `calls` has what was asked, in order."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.found_checks: dict[str, str] = {"store": "ok"}
        self.recalls = True
        self._memories: dict[int, tuple[str, replies.Memory]] = {}
        self._keys: dict[int, replies.ApiKeyInfo] = {}
        self._ids = itertools.count(1)
        self._ack = "quorum"
        self.relations: list[replies.RelationInfo] = []
        self.members = ["peer-1", "peer-2", "peer-3"]
        self.dead: set[str] = set()
        self.observers: list[str] = []
        self._operations: dict[str, Callable[[bytes, context.Context], tuple[int, Any]]] = {
            "memory.add": self._add,
            "memory.bulk_add": self._bulk_add,
            "memory.query": self._query,
            "memory.get": self._get,
            "memory.update": self._update,
            "memory.forget": self._forget,
            "memory.list": self._list,
            "memory.relate": self._relate,
            "memory.feedback": self._feedback,
            "memory.graph": self._graph,
            "memory.explanation": self._explanation,
            "keys.create": self._create_key,
            "keys.list": self._list_keys,
            "keys.revoke": self._revoke_key,
            "cluster.members": self._show_members,
            "cluster.join": self._join,
            "cluster.remove": self._remove,
            "org.get": self._get_organisation,
            "org.update": self._update_organisation,
        }

    async def call(self, operation: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """Answer an operation."""
        self.calls.append(Call(operation, dict(headers), body))
        request_id = headers.get(context.REQUEST_ID, "")
        try:
            circumstances = context.read_context(headers)
            if circumstances.api_key is None:
                raise errors.MissingApiKey("no API key")
            if circumstances.api_key != KEY:
                raise errors.Unauthenticated("unknown API key")
            status, found = self._operations[operation](body, circumstances)
        except errors.MemsyncError as error:
            return error_to_answer(error, request_id)
        return Answer(status, {context.POSITION: "0.0.1"}, codec.to_json(found))

    def checks(self) -> dict[str, str]:
        """What the test set."""
        return self.found_checks

    def is_recalling(self) -> bool:
        """What the test set."""
        return self.recalls

    def _user(self, asked: context.Context, named: str | None = None) -> str:
        user = named or asked.end_user  # the body wins, as in the real one
        if not user:
            raise errors.MissingEndUser("name the end user")
        return user

    def _of_user(self, user: str) -> list[replies.Memory]:
        return [memory for owner, memory in self._memories.values() if owner == user]

    def _store(self, item: requests.AddItem, user: str) -> replies.Memory:
        identifier = next(self._ids)
        memory = replies.Memory(
            id=identifier, text=item.body, created_at=AT, updated_at=AT, tags=item.tags or [],
            importance=0.5 if item.importance is None else item.importance, user_id=7,
            metadata=item.metadata or {}, source=item.source, end_user_id=user, version="1",
            session_id=item.session_id, event_type=item.event_type,
        )  # fmt: skip
        self._memories[identifier] = (user, memory)
        return memory

    def _visible(self, identifier: int, user: str) -> replies.Memory:
        owner, memory = self._memories.get(identifier, ("", None))
        if memory is None or owner != user:
            raise errors.NotFound(f"no memory {identifier}")
        return memory

    def _add(self, body: bytes, asked: context.Context) -> tuple[int, Any]:
        request = codec.from_json(body, requests.AddRequest)
        requests.check(requests.text_problems(request) + requests.item_problems(request))
        return 201, self._store(request, self._user(asked, request.end_user_id))

    def _bulk_add(self, body: bytes, asked: context.Context) -> tuple[int, Any]:
        request = codec.from_json(body, requests.BulkAddRequest)
        requests.check(requests.bulk_problems(request))
        user = self._user(asked, request.end_user_id)
        results = [
            replies.BulkItem(index=index, status="created", memory_ids=[self._store(item, user).id])
            for index, item in enumerate(request.items)
        ]
        count = len(results)
        return 200, replies.BulkAdded(
            total=count, created=count, skipped=0, rejected=0, results=results
        )

    def _query(self, body: bytes, asked: context.Context) -> tuple[int, Any]:
        request = codec.from_json(body, requests.QueryRequest)
        requests.check(requests.query_problems(request))
        words = set(request.query.lower().split())
        hits = [
            replies.RecalledMemory(**msgspec.structs.asdict(memory), score=1.0, scoring={})
            for memory in self._of_user(self._user(asked, request.end_user_id))
            if words & set(memory.text.lower().split())
        ]
        return 200, replies.QueryAnswer(
            memories=hits[: request.k], context="", confidence=0.5, latency_ms=1.0, session_id=None,
            query_intent="general", query_id="q_1", degraded=False, degraded_components=[],
            freshness=replies.Freshness(), sla_target_ms=500, sla_met=True,
        )  # fmt: skip

    def _get(self, body: bytes, asked: context.Context) -> tuple[int, Any]:
        request = codec.from_json(body, requests.GetRequest)
        return 200, self._visible(request.memory_id, self._user(asked, request.end_user_id))

    def _update(self, body: bytes, asked: context.Context) -> tuple[int, Any]:
        request = codec.from_json(body, requests.UpdateRequest)
        requests.check(requests.update_problems(request))
        user = self._user(asked, request.end_user_id)
        fields = ("tags", "importance", "metadata", "source", "event_type")
        given = {name: getattr(request, name) for name in fields}
        changes = {name: value for name, value in given.items() if value is not None}
        memory = msgspec.structs.replace(self._visible(request.memory_id, user), **changes)
        self._memories[memory.id] = (user, memory)
        return 200, memory

    def _forget(self, body: bytes, asked: context.Context) -> tuple[int, Any]:
        request = codec.from_json(body, requests.ForgetRequest)
        requests.check(requests.forget_problems(request))
        mine = [memory.id for memory in self._of_user(self._user(asked, request.end_user_id))]
        gone = [one for one in mine if request.memory_ids is None or one in request.memory_ids]
        for identifier in [] if request.dry_run else gone:
            del self._memories[identifier]
        return 200, gone

    def _list(self, body: bytes, asked: context.Context) -> tuple[int, Any]:
        request = codec.from_json(body, requests.ListRequest)
        if request.tenant_id not in (None, "default"):
            raise errors.TenantMismatch("another organisation's")
        found = self._of_user(request.user_id or self._user(asked, request.end_user_id))[::-1]
        limit = int(requests.clamp(request.limit, 1, 100))
        return 200, replies.MemoryPage(
            items=found[request.offset : request.offset + limit], total=len(found), limit=limit,
            offset=request.offset,
        )  # fmt: skip

    def _relate(self, body: bytes, asked: context.Context) -> tuple[int, Any]:
        request = codec.from_json(body, relations.RelateRequest)
        requests.check(relations.relate_problems(request))
        user = self._user(asked, request.end_user_id)
        for identifier in (request.memory_id, request.to_memory_id):
            self._visible(identifier, user)
        made = replies.RelationInfo(
            id=next(self._ids), from_memory_id=request.memory_id, created_at=AT,
            to_memory_id=request.to_memory_id, relationship_type=request.relationship_type,
            confidence=1.0 if request.confidence is None else request.confidence,
            metadata=request.metadata,
        )  # fmt: skip
        self.relations.append(made)
        return 201, made

    def _feedback(self, body: bytes, asked: context.Context) -> tuple[int, Any]:
        request = codec.from_json(body, relations.FeedbackRequest)
        requests.check(relations.feedback_problems(request))
        before = self._visible(request.memory_id, self._user(asked, request.end_user_id)).importance
        return 200, replies.FeedbackTaken(
            memory_id=request.memory_id, signal=request.signal, importance_before=before,
            importance_after=before, adjustment=0.0, influenced_ranking=False,
            summary=replies.FeedbackSummary(
                total_signals=1, signal_counts={request.signal: 1},
                trend=replies.FeedbackTrend(
                    momentum="neutral", consistency=1.0, trend_multiplier=1.0, recent_count=1
                ),
            ),
        )  # fmt: skip

    def _graph(self, body: bytes, asked: context.Context) -> tuple[int, Any]:
        request = codec.from_json(body, relations.GraphRequest)
        mine = self._of_user(self._user(asked, request.end_user_id))[: request.limit]
        nodes = [replies.GraphNode(**msgspec.structs.asdict(memory)) for memory in mine]
        ids = {memory.id for memory in mine}
        edges = [one for one in self.relations if {one.from_memory_id, one.to_memory_id} <= ids]
        return 200, replies.Graph(nodes=nodes, edges=edges)

    def _explanation(self, body: bytes, asked: context.Context) -> tuple[int, Any]:
        request = codec.from_json(body, relations.ExplanationRequest)
        mine = self._of_user(self._user(asked, request.end_user_id))
        if request.query_id != "q_1":
            raise errors.NotFound("no explanation")
        candidates = [
            replies.ExplainedCandidate(
                memory_id=memory.id, rank=rank, score=0.5, parts={"semantic": 0.4}
            )
            for rank, memory in enumerate(mine, 1)
        ]
        return 200, replies.Explanation(
            query_id="q_1", member="peer-1", created_at=AT, query_intent="factual", k=5,
            traversal_depth=2, computation_tier="medium", filters=[],
            weights={"semantic": 1.0}, models=["static"], stages=[], candidates=candidates,
            confidence=0.5, degraded_components=[], freshness=replies.Freshness(), latency_ms=1.0,
            sla_met=True,
        )  # fmt: skip

    def _show_members(self, body: bytes, asked: context.Context) -> tuple[int, Any]:
        members = [
            replies.MemberInfo(
                name=name, alive=name not in self.dead, positions=["0.0.7"], lag_entries=0,
                lease=True, clock_offset_ms=0.5, incarnation=4, membership="v1",
            )
            for name in self.members
        ]  # fmt: skip
        majority = len(members) // 2 + 1
        return 200, replies.ClusterInfo(
            cell="cell", version="v1", majority=majority, members=members,
            observers=self.observers, removed=["peer-9"],
            stripes=[replies.StripeInfo(stripe=0, generation=0, leader="nats-1")],
        )  # fmt: skip

    def _join(self, body: bytes, asked: context.Context) -> tuple[int, Any]:
        name = codec.from_json(body, requests.MemberRequest).name
        if name in self.members:
            raise errors.Conflict(f"{name} is a member already")
        self.members.append(name)
        return self._show_members(body, asked)

    def _remove(self, body: bytes, asked: context.Context) -> tuple[int, Any]:
        name = codec.from_json(body, requests.MemberRequest).name
        if name not in self.members:
            raise errors.NotFound(f"{name} is not a member")
        self.members.remove(name)
        return self._show_members(body, asked)

    def _get_organisation(self, body: bytes, asked: context.Context) -> tuple[int, Any]:
        return 200, replies.OrganisationInfo(id=7, slug="default", name="Default", ack=self._ack)

    def _update_organisation(self, body: bytes, asked: context.Context) -> tuple[int, Any]:
        self._ack = codec.from_json(body, requests.OrganisationUpdateRequest).ack
        return self._get_organisation(body, asked)

    def _create_key(self, body: bytes, asked: context.Context) -> tuple[int, Any]:
        request = codec.from_json(body, requests.KeyCreateRequest)
        requests.check(requests.key_problems(request))
        made = replies.ApiKeyInfo(
            id=next(self._ids), name=request.name, prefix="ms_dev_00000",
            environment=request.environment, scopes=request.scopes, project_id=request.project_id,
            rate_limit_tier=request.rate_limit_tier, status="active", created_at=AT,
            expires_at=None, last_used_at=None, usage_count=0, organisation="default",
            key="ms_dev_1",
        )  # fmt: skip
        self._keys[made.id] = made
        return 201, made

    def _list_keys(self, body: bytes, asked: context.Context) -> tuple[int, Any]:
        request = codec.from_json(body, requests.KeyListRequest)
        found = [msgspec.structs.replace(key, key=None) for key in self._keys.values()]
        return 200, replies.ApiKeyPage(
            items=found, total=len(found), limit=request.limit, offset=request.offset
        )

    def _revoke_key(self, body: bytes, asked: context.Context) -> tuple[int, Any]:
        request = codec.from_json(body, requests.KeyRevokeRequest)
        if request.key_id not in self._keys:
            raise errors.NotFound(f"no key {request.key_id}")
        return 200, msgspec.structs.replace(self._keys[request.key_id], status="revoked", key=None)
