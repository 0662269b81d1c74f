"""The routes as data: what is built, what is not built yet, and what each one takes and answers.

The app, the OpenAPI document and the docs page are made from this table. It holds no behaviour.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from memsync import limits
from memsync.wire import relations, replies, requests

BodySource = Literal["body", "fields", "merged"]


class OperationRoute(msgspec.Struct, frozen=True, kw_only=True):
    """A route that stands for an operation.

    `source` says where the operation's body comes from: the request's body as it is ("body"), path
    and query fields ("fields"), or path fields put into the request's body ("merged"). `defaults`
    are fields of the operation that a query may give, all optional.
    """

    method: str
    path: str
    operation: str
    source: BodySource
    takes: type[msgspec.Struct]
    answers: tuple[Any, ...]
    status: int = 200
    query: tuple[str, ...] = ()
    summary: str


PAGE = ("limit", "offset")
NUMBERS = ("limit", "offset", "depth", "memory_id", "key_id")
IGNORED = ("user_id", "tenant_id", "project_id", "environment")  # as in bodies: accepted, ignored

BUILT = (
    OperationRoute(
        method="POST",
        path="/memory/add",
        operation="memory.add",
        source="body",
        takes=requests.AddRequest,
        answers=(replies.Memory, replies.AddSkipped),
        status=201,
        summary="Store one memory.",
    ),
    OperationRoute(
        method="POST",
        path="/memory/query",
        operation="memory.query",
        source="body",
        takes=requests.QueryRequest,
        answers=(replies.QueryAnswer,),
        summary="Recall memories by meaning; always answers in the same shape.",
    ),
    OperationRoute(
        method="POST",
        path="/memory/retrieve",
        operation="memory.query",
        source="body",
        takes=requests.QueryRequest,
        answers=(replies.QueryAnswer,),
        summary="The same as /memory/query.",
    ),
    OperationRoute(
        method="POST",
        path="/memory/bulk-add",
        operation="memory.bulk_add",
        source="body",
        takes=requests.BulkAddRequest,
        answers=(replies.BulkAdded,),
        summary="Store up to 50 memories as a whole or not at all.",
    ),
    OperationRoute(
        method="DELETE",
        path="/memory/forget",
        operation="memory.forget",
        source="body",
        takes=requests.ForgetRequest,
        answers=(list[int],),
        summary="Forget memories by id or by filter; answers the bare list of their ids.",
    ),
    OperationRoute(
        method="GET",
        path="/memory/list",
        operation="memory.list",
        source="fields",
        takes=requests.ListRequest,
        answers=(replies.MemoryPage,),
        query=(*PAGE, "end_user_id"),
        summary="Page through the end user's memories, newest first.",
    ),
    OperationRoute(
        method="GET",
        path="/memory/explanations/{query_id}",
        operation="memory.explanation",
        source="fields",
        takes=relations.ExplanationRequest,
        answers=(replies.Explanation,),
        query=("end_user_id",),
        summary="Why a recall answered what it did; kept for 7 days.",
    ),
    OperationRoute(
        method="GET",
        path="/memory/graph",
        operation="memory.graph",
        source="fields",
        takes=relations.GraphRequest,
        answers=(replies.Graph,),
        query=("limit", "memory_id", "depth", "end_user_id"),
        summary="Memories and their relations: of one and what is around it, or of all.",
    ),
    OperationRoute(
        method="POST",
        path="/org/api-keys",
        operation="keys.create",
        source="body",
        takes=requests.KeyCreateRequest,
        answers=(replies.ApiKeyInfo,),
        status=201,
        summary="Make an API key; its secret is shown now and, in repeats, for ten minutes.",
    ),
    OperationRoute(
        method="GET",
        path="/org/api-keys",
        operation="keys.list",
        source="fields",
        takes=requests.KeyListRequest,
        answers=(replies.ApiKeyPage,),
        query=PAGE,
        summary="List the organisation's API keys.",
    ),
    OperationRoute(
        method="GET",
        path="/memory/{memory_id}",
        operation="memory.get",
        source="fields",
        takes=requests.GetRequest,
        answers=(replies.Memory,),
        query=("end_user_id",),
        summary="Read one memory.",
    ),
    OperationRoute(
        method="PATCH",
        path="/memory/{memory_id}",
        operation="memory.update",
        source="merged",
        takes=requests.UpdateRequest,
        answers=(replies.Memory,),
        summary="Change a memory; with `if_version` only if it is still that version.",
    ),
    OperationRoute(
        method="POST",
        path="/memory/{memory_id}/relations",
        operation="memory.relate",
        source="merged",
        takes=relations.RelateRequest,
        answers=(replies.RelationInfo,),
        status=201,
        summary="Relate a memory to another; 200 where it stood so already. At most "
        f"{limits.RELATIONS_MAX} begin at a memory; more are refused (422).",
    ),
    OperationRoute(
        method="POST",
        path="/memory/{memory_id}/feedback",
        operation="memory.feedback",
        source="merged",
        takes=relations.FeedbackRequest,
        answers=(replies.FeedbackTaken,),
        summary="Say what a memory was worth; this moves its importance. A memory takes "
        f"{limits.SIGNALS_MAX} signals; more are refused (422), and it stays as it is.",
    ),
    OperationRoute(
        method="GET",
        path="/v1/memory/{tenant_id}/{user_id:path}/list",
        operation="memory.list",
        source="fields",
        takes=requests.ListRequest,
        answers=(replies.MemoryPage,),
        query=PAGE,
        summary="Page through the memories of a named end user, newest first.",
    ),
    OperationRoute(
        method="POST",
        path="/org/api-keys/{key_id}/revoke",
        operation="keys.revoke",
        source="merged",
        takes=requests.KeyRevokeRequest,
        answers=(replies.ApiKeyInfo,),
        summary="Revoke an API key, at once and for ever.",
    ),
    OperationRoute(
        method="GET",
        path="/admin/cluster",
        operation="cluster.members",
        source="fields",
        takes=requests.ClusterRequest,
        answers=(replies.ClusterInfo,),
        summary="The members of the cell and how each is.",
    ),
    OperationRoute(
        method="POST",
        path="/admin/cluster/join",
        operation="cluster.join",
        source="body",
        takes=requests.MemberRequest,
        answers=(replies.ClusterInfo,),
        summary="Make a process a member of the cell.",
    ),
    OperationRoute(
        method="POST",
        path="/admin/cluster/remove",
        operation="cluster.remove",
        source="body",
        takes=requests.MemberRequest,
        answers=(replies.ClusterInfo,),
        summary="Take a member out of the cell.",
    ),
    OperationRoute(
        method="GET",
        path="/org",
        operation="org.get",
        source="fields",
        takes=requests.OrganisationGetRequest,
        answers=(replies.OrganisationInfo,),
        summary="The organisation of the API key.",
    ),
    OperationRoute(
        method="PATCH",
        path="/org",
        operation="org.update",
        source="body",
        takes=requests.OrganisationUpdateRequest,
        answers=(replies.OrganisationInfo,),
        summary="Set who must have a write where it names no `Memsync-Ack`: quorum or all.",
    ),
)

PASSING_PATH = "/v1/operations/{operation}"  # from a gateway to a peer's own port
OPERATIONS = frozenset(route.operation for route in BUILT)
RECALL = "memory.query"
READS = frozenset(
    {
        RECALL,
        "memory.get",
        "memory.list",
        "memory.graph",
        "memory.explanation",
        "keys.list",
        "org.get",
        "cluster.members",
    }
)
IDS_TAKEN = {"memory.add": 1, "memory.bulk_add": limits.BULK_ITEMS_MAX, "keys.create": 1}

# What the API has and memsync has not built: path -> methods. Each answers 501 NOT_IMPLEMENTED.
_ANY = "DELETE GET PATCH POST PUT"
UNBUILT = {
    "/memory/batch-update": "POST",
    "/memory/summarize": "POST",
    "/memory/compose": "POST",
    "/memory/export": "GET",
    "/memory/{memory_id}/history": "GET",
    "/memory/upload": "POST",
    "/memory/ontology": "GET PUT",
    "/memory/clusters": "GET",
    "/memory/decisions": "GET",
    "/memory/decision/resolve": "POST",
    "/memory/intelligence": "GET",
    "/memory/knowledge/stats": "GET",
    "/memory/refresh": "POST",
    "/memory/search/routed": "POST",
    "/memory/synthesize": "POST",
    "/imports": "GET POST",
    "/imports/{job_id}": "GET",
    "/imports/{job_id}/cancel": "POST",
    "/exports": "GET POST",
    "/exports/{job_id}": "GET",
    "/exports/{job_id}/cancel": "POST",
    "/exports/{job_id}/retry": "POST",
    "/exports/{job_id}/download-url": "GET",
    "/v1/history/append": "POST",
    "/v1/history/list": "POST",
    "/v1/history/delete": "POST",
    "/v1/state/put": "POST",
    "/v1/state/get": "POST",
    "/v1/state/list": "POST",
    "/v1/state/search": "POST",
    "/v1/state/delete": "POST",
    "/v1/state/namespaces": "POST",
    "/v1/memory/add_turn": "POST",
    "/v1/memory/recall": "POST",
    "/v1/memory/status/{memory_id}": "GET",
    "/org/api-keys/bulk-revoke": "POST",
    "/org/api-keys/{key_id}": "PATCH",
    "/org/api-keys/{key_id}/rotate": "POST",
    "/org/api-keys/{key_id}/test": "POST",
    "/org/projects": "GET POST",
    "/org/projects/{project_id}": "DELETE PATCH",
    "/org/projects/{project_id}/archive": "POST",
    "/org/projects/{project_id}/unarchive": "POST",
    "/org/webhooks": "GET POST",
    "/org/webhooks/event-types": "GET",
    "/org/webhooks/health": "GET",
    "/org/webhooks/deliveries/recent": "GET",
    "/org/webhooks/deliveries/{delivery_id}": "GET",
    "/org/webhooks/deliveries/{delivery_id}/retry": "POST",
    "/org/webhooks/{webhook_id}": "DELETE GET PATCH",
    "/org/webhooks/{webhook_id}/pause": "POST",
    "/org/webhooks/{webhook_id}/resume": "POST",
    "/org/webhooks/{webhook_id}/rotate-secret": "POST",
    "/org/webhooks/{webhook_id}/test": "POST",
    "/org/webhooks/{webhook_id}/replay": "POST",
    "/org/webhooks/{webhook_id}/deliveries": "GET",
    "/org/webhooks/{webhook_id}/deliveries/latest": "GET",
    "/org/usage": "GET",
    "/org/usage/alerts": "GET",
    "/org/billing/current-plan": "GET",
    "/admin/audit-logs": "GET",
    "/admin/dsr": "GET POST",
    "/admin/dsr/{request_id}": "GET",
    "/admin/incidents": "GET POST",
    "/admin/incidents/{incident_id}": "GET PATCH",
    "/admin/maintenance": "GET POST",
    "/admin/maintenance/{window_id}": "DELETE GET PATCH",
    "/auth/{rest:path}": _ANY,
    "/organizations": "GET POST",
    "/api/v1/integrations/{rest:path}": _ANY,
    "/api/v2/integrations/{rest:path}": _ANY,
    "/status.rss": "GET",
}
