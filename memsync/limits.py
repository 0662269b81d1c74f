"""Every limit of the system, in one place, with the relations that must hold between them.

Units are in the names: `_bytes`, `_s` (seconds), `_ms` (milliseconds). What a caller sees of these
is told in the API document; what an operator may set is in `config.py`.
"""

from __future__ import annotations

# What callers may send (HTTP and NATS alike).
BODY_BYTES_MAX = 1_000_000
TEXT_CHARS_MAX = 8_000
QUERY_CHARS_MAX = 8_000
QUERY_TERMS_MAX = 256  # of a question, the rarest are searched for; LoCoMo's have less than 40
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
TRAVERSAL_DEPTH_DEFAULT = 2
RELATIONS_MAX = 200  # that begin at one memory
SIGNALS_MAX = 512  # of feedback on one memory
ATTACHED_BYTES_MAX = 256 * 1024  # of both, with their metadata and comments; a record is one row
GRAPH_NODES_MAX = 500
GRAPH_NODES_DEFAULT = 100
GRAPH_EDGES_MAX = 2_000
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
TAIL_QUIET_S = 5.0
TAIL_QUEUE_FRAMES_MAX = 4_096
TAIL_QUEUE_BYTES_MAX = 64 * 1024 * 1024
TAIL_EARLY_BYTES_MAX = 16 * 1024 * 1024
FRAMES_REMEMBERED = 4_096  # ids of applied frames: one that comes again is not joined again

# The applier and the store.
APPLY_FRAMES_MAX = 512
APPLY_BYTES_MAX = 2 * 1024 * 1024  # the hot index takes a batch in one step: 0.1 s at the most
BUCKETS = 1_024
OPERATION_KEY_OURS_S = 600
KEY_RETOLD_S = 600  # the secret of a new API key, to who repeats its creation
OPERATION_KEY_CALLERS_S = 24 * 3600
DUPLICATE_TEXT_S = 24 * 3600
STORE_READERS = 2

# Members.
MEMBERS_MAX = 9
REMOVED_MAX = 64  # names of removed members that are remembered, the latest
ROSTER_S = 0.5  # how often a process tells which members it goes by
WATERMARK_S = 0.1  # how often a peer tells all others what it has applied, while that changes,
WATERMARK_QUIET_S = 0.2  # and while it does not
LAG_S_MAX = 0.3  # what others had so long ago and this peer has not: its `local` answers are tagged
LEASE_S = 0.5  # how long an answer of a majority lets a peer answer reads as fresh
GRANT_S = 0.6  # how long a member names an asker; longer than its lease, whatever was late
UNHEARD_S = 0.3  # a holder that others hear for so long, and a coordinator does not: it passes on
QUESTION_TIMEOUT_S = 0.3
CALL_S = 0.3  # how long who called is told at once of all that a member applies
STAMP_WITHIN_S = 0.3  # of making sure that nothing newer is there; who takes longer looks again
CLOCK_APART_MS_MAX = 250  # further off the members' median, a peer coordinates nothing
GENERATIONS_TOLD_MAX = 4  # of each stripe, the newest; older ones are everybody's by then
WATERMARK_SILENT_S = 1.0  # a member unheard for this long does not count as alive

# Rows from peer to peer.
EXCHANGE_BYTES_MAX = 1024 * 1024  # of rows in one answer
EXCHANGE_OPERATIONS_MAX = 2_000  # operation keys in one answer
EXCHANGE_KEYS_MAX = 1_000  # rows asked for by key at once
EXCHANGE_HASHES_MAX = 30_000  # of rows in one answer, below 1 MB
EXCHANGE_TIMEOUT_S = 5.0
EXCHANGE_SERVED_MAX = 2  # answers in the making at once
EXCHANGE_ATTEMPTS = 3  # a page may be lost on the way; then the next giver
RECOVERY_LOOK_S = 1.0  # how often a peer looks for positions that only another can give
RECOVERY_BACKOFF_S_MAX = 5.0  # a giver that refused is asked again after so long, at the latest
ROWS_FIRST_FRAMES = 5_000  # an empty peer with more than that to read takes rows instead
HOLE_READS = 10  # times that a missing message is asked of whichever server
HOLE_S = 8.0  # before a message that nobody has is passed: nobody waits for its cover any more
MARK_EVERY_S = 60.0
MARK_HOLD_S = 0.2
SCRUB_ROWS = 1_000  # at a time: 4 ms of work, or 12 where they have changed
SCRUB_PAUSE_S = 0.4  # after each time at the least: 40 s for 100,000 rows,
SCRUB_REST = 20  # and so many times as long as the processor worked: 5 % of a core at the most
SCRUB_PASS_S = 45.0  # the least time for all rows: few of them need not be read all the time
FILE_CHECK_REST = 400  # times as long as its last check of pages and indexes took: 0.25 % of a core
SCRUB_PROMISED_ROWS = 100_000  # of which one that was altered is as it was
SCRUB_PROMISED_S = 60.0  # within so long

# Trimming the log.
TRIM_ABOVE = 0.7  # of max_bytes
TRIM_TO = 0.5
TRIM_WITHOUT_ABSENT = 0.85  # above it members that are gone are not waited for,
TRIM_WITHOUT_SLOW = 0.95  # above it a minority that does not keep up neither
LOG_SCRUB_S = 10.0  # between two looks of a peer; each reads one batch back
LOG_SCRUB_NEWEST = 20_000  # messages of a stripe that are read back in turn
TRIM_CHECK_S = 1.0
TRIM_LOOK_ABOVE = 0.35  # below it, how full a stripe was at the last look at its leader suffices
TRIM_HURRIED_S = 0.2  # while a stripe is above TRIM_TO
SYNC_S = 1.0  # how often a peer syncs its store, when there is anything new
SYNC_HURRIED_S = 0.2

# Requests between processes.
REQUESTS_IN_FLIGHT_MAX = 512
ATTEMPT_TIMEOUT_S = 0.5
NATS_WATCHDOG_S = 0.5
NATS_RTT_TIMEOUT_S = 1.0
SHUTDOWN_S = 10.0

# What gateways keep for the moment at which no peer answers, and how they hear that it is wrong.
LAST_ANSWERS_AGE_S = 60.0
LAST_ANSWERS_MAX = 8_192
LAST_ANSWERS_BYTES_MAX = 32 * 1024 * 1024
NEWS_S = 0.5  # how often a peer tells which of its news was the last
NEWS_NAMES_MAX = 1_000  # end users and keys in one message; more are told as "everything"

# Recall.
RECALL_BUDGET_MS = {"low": 100, "medium": 500, "high": 2_000}
USES_EVERY_S = 60.0  # how often a peer publishes what its recalls have used
USES_KEPT_MAX = 20_000  # memories whose use waits to be published; more are not counted
USES_PUBLISHED_MAX = 2_048  # at one time
EXPLANATION_S = 7 * 86_400  # how long an explanation is kept,
EXPLANATIONS_BYTES_MAX_DEFAULT = 512 * 1024 * 1024  # if they all fit: a million of five memories
EXPLANATIONS_BYTES_MAX_MIN = 1024 * 1024
EXPLANATION_BYTES_MAX = 64 * 1024
EXPLANATIONS_QUEUED_MAX = 2_000  # that wait to be written
HOT_INDEX_BYTES_MAX_DEFAULT = 512 * 1024 * 1024
QUERY_CACHE_ENTRIES = 4_096
EMBED_TIMEOUT_S = 4.0  # in the background; a provider may have less
EMBED_WRITE_S = 0.3  # of a write; what has no vector by then gets it later
EMBED_DIMENSIONS_MAX = 4_096
EMBED_CALLS_MAX = 64  # that wait for one provider
REASONED_PARTS_MAX = 3  # other ways to ask that a chat model may add to a question
REEMBED_BATCH = 64  # memories that are embedded and written at once
REEMBED_ROWS = 1_000  # of the store that are looked at at once
REEMBED_PENDING_MAX = 10_000  # memories that are noted; the others are found again
REEMBED_PAUSE_S = 0.05
BREAKERS_MAX = 4_096  # of organisations and providers in trouble; more are taken to be well
RESULTS_AGE_S = 5.0  # an answer of the same version of its scope: how recent memories are moves on
RESULTS_MAX = 8_192
RESULTS_BYTES_MAX = 32 * 1024 * 1024
EXACT_ROWS_MAX = 50_000  # of a scope; above it approximate search is built beside it
COARSE_LOOK_S = 1.0  # how often a peer looks whether a scope has grown above that
COARSE_RETRY_S = 60.0  # after a failure; exact answers go on
SHOWN_BYTES_MAX = 32 * 1024 * 1024  # of memories as recalls showed them, about 10,000
IN_LINE_ROWS = 64  # so few are worked on by the event loop itself: about 1 ms
LOAD_PAGE_ROWS = 1_000  # of a scope that is loaded, read at once: about 10 ms
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
    assert STAMP_WITHIN_S < ATTEMPT_TIMEOUT_S  # no second attempt has begun by then
    # A question and its answer wait for one watermark each; then there is still a lease.
    assert WATERMARK_S < WATERMARK_QUIET_S < 2 * WATERMARK_QUIET_S < LEASE_S < GRANT_S
    assert WATERMARK_QUIET_S < UNHEARD_S < GRANT_S  # more than one question of a holder
    assert HOLE_S > FRAME_S_MAX
    assert EXCHANGE_BYTES_MAX < NATS_PAYLOAD_BYTES_MAX - FRAME_BYTES_TARGET
    assert METADATA_BYTES_MAX * 2 < EXPLANATION_BYTES_MAX < EXPLANATIONS_BYTES_MAX_MIN
    assert EXPLANATIONS_BYTES_MAX_MIN < EXPLANATIONS_BYTES_MAX_DEFAULT
    assert USES_PUBLISHED_MAX <= USES_KEPT_MAX
    # A row altered right after it was read is found a pass later; 15 s for the work and the repair.
    assert SCRUB_PROMISED_ROWS / SCRUB_ROWS * SCRUB_PAUSE_S < SCRUB_PASS_S <= SCRUB_PROMISED_S - 15
    assert TRIM_LOOK_ABOVE < TRIM_TO < TRIM_ABOVE < TRIM_WITHOUT_ABSENT < TRIM_WITHOUT_SLOW < 1
    assert REEMBED_BATCH <= FRAME_OPERATIONS_MAX
    assert REEMBED_BATCH * (2 * EMBED_DIMENSIONS_MAX + 256) < FRAME_BYTES_TARGET
    assert EMBED_WRITE_S < ATTEMPT_TIMEOUT_S  # else every slow one is tried twice
    assert EMBED_TIMEOUT_S < DEADLINE_S_DEFAULT
    assert ANSWER_BYTES_MAX < NATS_PAYLOAD_BYTES_MAX
    assert METADATA_BYTES_MAX < ATTACHED_BYTES_MAX < EXCHANGE_BYTES_MAX
    assert NEWS_NAMES_MAX * 34 < FRAME_BYTES_TARGET  # 32 bytes and their header, each
    assert RESULTS_AGE_S < LAST_ANSWERS_AGE_S


_check()
