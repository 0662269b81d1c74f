"""`memsync.testing`: what other processes are told, without a cluster."""

from __future__ import annotations

from pathlib import Path

from memsync.client.finding import find
from memsync.testing import Cluster


def test_its_environment_stands_above_another_clusters(tmp_path: Path) -> None:
    cluster = Cluster("http://127.0.0.1:1", "nats://127.0.0.1:2", "ms_dev_1", tmp_path)
    for other in ({"MEMSYNC_NATS_URL": "nats://10.0.0.1"}, {"MEMSYNC_URL": "http://10.0.0.1"}):
        target = find(other | cluster.environment)
        assert (target.url, target.api_key) == (cluster.url, "ms_dev_1")
