"""Real clients in their embedded modes, each with the same six photographs; tests of those not installed skip."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

NAMES = [f"p/{k}.png" for k in range(6)]
VECTORS = np.eye(6, 8, dtype=np.float32) + 0.05 * np.arange(48, dtype=np.float32).reshape(6, 8) / 48
ASKED = VECTORS[3] + 0.4 * VECTORS[1] + 0.1 * VECTORS[5]
BEST = [NAMES[3], NAMES[1], NAMES[5]]


def client_of(module: str) -> Any:
    return pytest.importorskip(module, reason=f"needs {module}, of delf-engine[clients]")


def faiss_index(kind: str = "IndexFlatL2") -> Any:
    import faiss

    index = getattr(faiss, kind)(8)
    index.add(VECTORS)
    return index


def usearch_index() -> Any:
    index = client_of("usearch.index").Index(ndim=8, metric="l2sq")
    index.add(np.arange(6), VECTORS)
    return index


def hnswlib_index() -> Any:
    index = client_of("hnswlib").Index("l2", 8)
    index.init_index(6)
    index.add_items(VECTORS, np.arange(6))
    return index


def qdrant(metric: str = "COSINE") -> Any:
    client = client_of("qdrant_client").QdrantClient(":memory:")
    from qdrant_client import models

    kind = getattr(models.Distance, metric)
    client.create_collection("photos", vectors_config=models.VectorParams(size=8, distance=kind))
    points = [
        models.PointStruct(id=k, vector=VECTORS[k].tolist(), payload={"path": name, "score": 9})
        for k, name in enumerate(NAMES)
    ]
    client.upsert("photos", points)
    return client


def lancedb_table(folder: Path) -> Any:
    rows = [{"vector": VECTORS[k], "path": name, "jpeg": name.encode()} for k, name in enumerate(NAMES)]
    return client_of("lancedb").connect(folder).create_table("photos", rows)


def milvus(folder: Path, metric: str = "COSINE") -> Any:
    client_of("milvus_lite")
    client = client_of("pymilvus").MilvusClient(str(folder / "milvus.db"))
    client.create_collection("photos", dimension=8, metric_type=metric)
    client.insert("photos", [{"id": k, "vector": VECTORS[k], "path": name} for k, name in enumerate(NAMES)])
    return client
