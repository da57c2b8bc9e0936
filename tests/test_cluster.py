"""How a cluster's processors are dealt out."""

from __future__ import annotations

import pytest

from amn_ray.cluster import Cluster, ClusterConfig


@pytest.mark.parametrize(("batch", "workers"), [(16, 4), (10, 2), (9, 3), (7, 1)])
def test_a_batch_is_dealt_to_as_many_gpus_as_divide_it(
    monkeypatch: pytest.MonkeyPatch, batch: int, workers: int
) -> None:
    monkeypatch.setattr(Cluster, "connect", lambda self: None)
    monkeypatch.setattr(Cluster, "_gpus", 4)
    share = Cluster(ClusterConfig()).train_share(batch)
    assert (share.count, share.gpus) == (workers, 1)
    assert Cluster(ClusterConfig(train_workers=2)).train_share(batch).count == 2
