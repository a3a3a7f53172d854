"""Index a folder of photographs, then find the ones that show what a query shows.

    python examples/search_folder.py photos/ query.jpg landmarks/

Call it again after photographs were added to the folder, or after it was interrupted: only what is new is
extracted.
"""

import sys
from pathlib import Path

import delf_engine as de

if len(sys.argv) != 4:
    sys.exit(__doc__)
photos, query, directory = sys.argv[1:]

exists = (Path(directory) / "engine.json").is_file()
with de.Engine.open(directory) if exists else de.Engine.create(directory) as engine:
    report = engine.add(photos)
    print(report)  # counts, and each file that could not be read with its reason

    hits = engine.search(query, top_k=10, exclude=query)
    for hit in hits:
        print(hit)

    same = [engine.path_of(hit.id) for hit in hits if hit.verdict == "same"]
    print(f"{len(same)} photographs show the same place as {query}")
