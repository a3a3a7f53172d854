"""A cluster of Ray of two nodes on this machine, and a node that is killed in the middle of a stage."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_OPTIONS: dict[str, Any] = {"num_cpus": 1, "object_store_memory": 300_000_000}


@contextmanager
def two_nodes() -> Iterator[Any]:
    """Yield a cluster of two nodes of one core each; the driver is on the first."""
    import ray
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={**_OPTIONS, "include_dashboard": False})
    cluster.add_node(**_OPTIONS)
    ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.ERROR)
    try:
        yield cluster
    finally:
        ray.shutdown()
        cluster.shutdown()


@contextmanager
def killed_node(cluster: Any, place: Path, stage: str, after: int) -> Iterator[dict[str, Any]]:
    """Kill the second node once `after` parts are there, and say what became of the parts.

    ``kept`` is whether the parts that were there then still are those, ``lost`` how many were begun in vain.
    """
    told: dict[str, Any] = {"stage": stage.split("/")[0]}
    markers: dict[Path, bytes] = {}

    def kill() -> None:
        while len(found := list(place.glob(f"{stage}/*.json"))) < after:
            time.sleep(0.02)
        markers.update((path, path.read_bytes()) for path in found)
        cluster.remove_node(next(iter(cluster.worker_nodes)), allow_graceful=False)

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    start = time.perf_counter()
    yield told
    told["seconds"] = time.perf_counter() - start
    thread.join()
    cluster.add_node(**_OPTIONS)  # for the next stage; only the main thread can
    told["there"], told["parts"] = len(markers), len(list(place.glob(f"{stage}/*.json")))
    told["kept"] = all(path.read_bytes() == contents for path, contents in markers.items())
    told["lost"] = sum(path.is_dir() for path in place.glob(f"{stage}/*")) - told["parts"]
