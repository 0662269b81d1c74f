"""Metrics of the engine. No tenant in a label; every loop shows its depth, its lag or its last
success."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

_FAST = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)

APPLY_SECONDS = Histogram("memsync_apply_seconds", "One batch, joined and committed", buckets=_FAST)
FRAMES_APPLIED = Counter("memsync_frames_applied_total", "Frames joined into the store")
APPLIER_BROKEN = Gauge("memsync_applier_broken", "1 where a broken invariant stopped the applier")
STORE_FAILURES = Counter("memsync_store_failures_total", "Batches that the store refused for now")
WRITE_SECONDS = Histogram(
    "memsync_write_seconds", "A write, from the coordinator's queue to its cover", buckets=_FAST
)
FRAMES_PUBLISHED = Counter("memsync_frames_published_total", "Frames stored by the bus")
FRAME_WRITES = Histogram(
    "memsync_frame_writes", "Writes in one frame", buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256)
)
WRITES_QUEUED = Gauge("memsync_writes_queued", "Writes that wait for a frame")
WRITES_IN_FLIGHT = Gauge(
    "memsync_writes_in_flight", "Writes that this peer coordinates at the moment"
)
STRIPE_ROTATIONS = Counter(
    "memsync_stripe_rotations_total", "Frames tried on another stripe", ["reason"]
)
TAIL_GAPS = Counter("memsync_tail_gaps_total", "Gaps in a stripe that were read again")
TAIL_LAG = Gauge("memsync_tail_lag_entries", "Frames known to exist and not yet read", ["stripe"])
HOLES_VOIDED = Counter(
    "memsync_holes_voided_total", "Messages that no server and no member had, passed as void"
)
RECOVERY_RUNNING = Gauge("memsync_recovery_running", "1 while rows of another peer are joined")
RECOVERY_SECONDS = Gauge("memsync_recovery_seconds", "How long the last whole copy took")
RECOVERY_FAILURES = Counter("memsync_recovery_failures_total", "Copies that were broken off")
ROWS_JOINED = Counter("memsync_rows_joined_total", "Rows of other peers joined into the store")
ROWS_GIVEN = Counter("memsync_rows_given_total", "Rows given to other peers")
MEMBERS_ALIVE = Gauge("memsync_members_alive", "Members heard of within the last second")
LEADERS_MOVED = Counter("memsync_leaders_moved_total", "Stripe leaders moved to another server")
STRIPES_LEADERLESS = Gauge("memsync_stripes_leaderless", "Stripes that have no leader for now")
FRAMES_VOIDED = Counter(
    "memsync_frames_voided_total", "Frames passed by because the settings name them"
)
LOG_DAMAGE = Gauge(
    "memsync_log_damage", "Messages missing within a server's copy of the log", ["server"]
)
STRIPE_FILL = Gauge("memsync_stripe_fill_ratio", "How full a stripe is", ["stripe"])
STRIPE_TRIMS = Counter("memsync_stripe_trims_total", "Times a stripe was trimmed by this peer")
IDS_REMADE = Counter("memsync_id_streams_made_total", "Times the stream of ids was made (again)")
STREAMS_REMADE = Counter("memsync_streams_remade_total", "Lost streams that were made again")
ROUNDS_PASSED = Counter(
    "memsync_mark_rounds_passed_total", "Rounds of anti-entropy without sums here", ["reason"]
)
LEASE_HELD = Gauge("memsync_lease_held", "1 while this peer answers reads as fresh by a lease")
LEASES_LOST = Counter("memsync_leases_lost_total", "Leases not renewed because this peer lagged")
QUESTIONS_UNANSWERED = Counter(
    "memsync_questions_unanswered_total", "Questions for positions that no majority answered"
)
CLOCK_APART_SECONDS = Gauge(
    "memsync_clock_apart_seconds", "How far this clock is ahead of the members' median"
)
ROUNDS_CUT = Counter("memsync_mark_rounds_cut_total", "Rounds of anti-entropy with sums here")
ROUND_COMPARED = Gauge(
    "memsync_mark_round_compared_timestamp_seconds",
    "The round whose sums were last compared with another member's",
)
DIVERGENCES = Counter(
    "memsync_divergence_total", "Times that another member began to hold something else"
)
SCRUB_ROWS = Counter("memsync_scrub_rows_total", "Rows that the scrub computed again")
SCRUB_DAMAGED = Counter(
    "memsync_scrub_damaged_total", "Rows that were not what was written, by who met them", ["met"]
)
SCRUB_BUCKETS = Counter(
    "memsync_scrub_buckets_total", "Buckets whose rows were changed behind the store's back"
)
SCRUB_PASS_SECONDS = Gauge("memsync_scrub_pass_seconds", "How long the last whole pass took")
SCRUB_PASSED = Gauge(
    "memsync_scrub_passed_timestamp_seconds", "When the last whole pass of the scrub ended"
)
NEWS_TOLD = Counter(
    "memsync_news_told_total",
    "News for gateways that were sent: with content, or a number",
    ["what"],
)
