"""Every limit of the system, in one place, with the relations that must hold between them.

Units are in the names: `_bytes`, `_s` (seconds), `_ms` (milliseconds). What a caller sees of these
is told in the API document; what an operator may set is in `config.py`.
"""

from __future__ import annotations

# What callers may send (HTTP and NATS alike).
BODY_BYTES_MAX = 1_000_000
TEXT_CHARS_MAX = 8_000
QUERY_CHARS_MAX = 8_000
METADATA_BYTES_MAX = 16 * 1024
METADATA_DEPTH_MAX = 32  # far below where decoders give up, wherever they are called from
TAGS_MAX = 32
TAG_CHARS_MAX = 64
NAME_CHARS_MAX = 256  # source, event_type, session_id, role, key names
END_USER_CHARS_MAX = 256
PROJECT_CHARS_MAX = 64
CLIENT_REF_CHARS_MAX = 128
IDEMPOTENCY_KEY_CHARS_MAX = 128
REASON_CHARS_MAX = 500
BULK_ITEMS_MAX = 50
RECALL_K_MAX = 50
RECALL_K_DEFAULT = 5
TRAVERSAL_DEPTH_MAX = 3
LIST_LIMIT_MAX = 100
LIST_LIMIT_DEFAULT = 20
FORGET_IDS_MAX = 20_000
CONTEXT_BYTES_MAX = 32 * 1024
ANSWER_BYTES_MAX = 3_500_000
DEADLINE_S_DEFAULT = 10.0
DEADLINE_S_MAX = 30.0

# The log.
STRIPES = 3
FRAME_OPERATIONS_MAX = 256
FRAME_BYTES_TARGET = 1024 * 1024  # a frame closes here, unless a single write needs more
FRAME_BYTES_MAX = 3_900_000
NATS_PAYLOAD_BYTES_MAX = 4 * 1024 * 1024
FRAMES_IN_FLIGHT_MAX = 4
WRITES_QUEUED_MAX = 2_048
DUPLICATE_WINDOW_S = 600
LOG_AGE_MAX_S = 7 * 86_400
PUBLISH_TIMEOUT_S = 0.3
COVER_TIMEOUT_S = 0.3
COVER_OPERATION_S = 0.0002  # more patience for each operation in the frame: joining takes time
FRAME_S_MAX = 5.0  # after that a frame is given up, whatever its writers' deadlines are
FETCH_BATCH_MESSAGES = 500
FETCH_BATCH_BYTES = 8 * 1024 * 1024
FETCH_TIMEOUT_S = 1.0
TAIL_CHECK_S = 1.0
TAIL_QUEUE_FRAMES_MAX = 4_096
TAIL_QUEUE_BYTES_MAX = 64 * 1024 * 1024
TAIL_EARLY_BYTES_MAX = 16 * 1024 * 1024
FRAMES_REMEMBERED = 4_096  # ids of applied frames: one that comes again is not joined again

# The applier and the store.
APPLY_FRAMES_MAX = 128
APPLY_BYTES_MAX = 8 * 1024 * 1024
BUCKETS = 1_024
OPERATION_KEY_OURS_S = 600
OPERATION_KEY_CALLERS_S = 24 * 3600
DUPLICATE_TEXT_S = 24 * 3600
STORE_READERS = 2

# Members.
MEMBERS_MAX = 9
WATERMARK_S = 0.1
LAG_S_MAX = 0.3  # what others had so long ago and this peer has not makes its answers tagged
WATERMARK_SILENT_S = 1.0  # a member unheard for this long does not count as alive

# Requests between processes.
REQUESTS_IN_FLIGHT_MAX = 512
ATTEMPT_TIMEOUT_S = 0.5
NATS_WATCHDOG_S = 0.5
NATS_RTT_TIMEOUT_S = 1.0
SHUTDOWN_S = 10.0

# Recall.
RECALL_BUDGET_MS = {"low": 100, "medium": 500, "high": 2_000}
HOT_INDEX_BYTES_MAX_DEFAULT = 512 * 1024 * 1024
QUERY_CACHE_ENTRIES = 4_096
WARM_SCOPES_MAX = 64  # scopes that a peer loads at its start, the newest first,
WARM_MEMORIES_MAX = 50_000  # with at most so many memories in all

# Ids: 5 bits of id space, 32 of block, 16 of number; together below 2^53.
ID_SPACE_BITS = 5
ID_BLOCK_BITS = 32
ID_NUMBER_BITS = 16


def _check() -> None:
    """The relations between limits; a change that breaks one fails at import, in every test."""
    assert ID_SPACE_BITS + ID_BLOCK_BITS + ID_NUMBER_BITS <= 53
    assert FRAME_BYTES_TARGET < FRAME_BYTES_MAX < NATS_PAYLOAD_BYTES_MAX
    assert BODY_BYTES_MAX < FRAME_BYTES_TARGET
    assert BULK_ITEMS_MAX <= FRAME_OPERATIONS_MAX
    assert PUBLISH_TIMEOUT_S < ATTEMPT_TIMEOUT_S < DEADLINE_S_DEFAULT <= DEADLINE_S_MAX
    assert DUPLICATE_WINDOW_S >= OPERATION_KEY_OURS_S
    assert WATERMARK_S < WATERMARK_SILENT_S
    assert ANSWER_BYTES_MAX < NATS_PAYLOAD_BYTES_MAX


_check()
