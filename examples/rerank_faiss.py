"""Re-rank the results of a FAISS search over global descriptors by geometric verification.

    python examples/rerank_faiss.py photos/ query1.jpg query2.jpg ...

The global descriptor here is a colour histogram, to need no other model: put yours in its place.
"""

import sys

import cv2
import faiss
import numpy as np

import delf_engine as de
from delf_engine.images import find_images, load_image
from delf_engine.reranking import shortlists_from_arrays

if len(sys.argv) < 3:
    sys.exit(__doc__)
folder, *queries = sys.argv[1:]


def global_descriptor(path: str) -> np.ndarray:
    """Return (64,) float32: the square roots of a colour histogram, compared by their inner product."""
    counts = cv2.calcHist([load_image(path)], [0, 1, 2], None, [4, 4, 4], [0, 256] * 3).ravel()
    return np.sqrt(counts / counts.sum())


extractor = de.Extractor.from_pretrained("delf-r18")
local = dict(extractor.extract_many(find_images([folder])))  # path -> LocalFeatures; bad files are warned of
asked = dict(extractor.extract_many(queries))

index = faiss.IndexFlatIP(64)
index.add(np.stack([global_descriptor(path) for path in local]))
scores, rows = index.search(np.stack([global_descriptor(path) for path in asked]), 50)

shortlists = shortlists_from_arrays(rows, scores, queries=list(asked), names=list(local))
rankings = de.rerank_many(asked, shortlists, local, top_n=50)  # checkpoint="rerank.journal" makes it resumable
for query, ranking in rankings.items():
    print(query)
    for hit in ranking[:5]:
        print("  ", hit)
