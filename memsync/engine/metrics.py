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
MEMBERS_ALIVE = Gauge("memsync_members_alive", "Members heard of within the last second")
LEADERS_MOVED = Counter("memsync_leaders_moved_total", "Stripe leaders moved to another server")
STREAMS_REMADE = Counter("memsync_streams_remade_total", "Lost streams that were made again")
