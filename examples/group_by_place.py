"""Sort a folder of photographs into groups that show the same place.

    python examples/group_by_place.py photos/ groups.json

Every photograph is searched among the others, and two are joined where the verdict is "same". Joining is
transitive: one wrong answer joins two groups.
"""

import json
import sys
import tempfile

from scipy.cluster.hierarchy import DisjointSet

import delf_engine as de

if len(sys.argv) != 3:
    sys.exit(__doc__)
photos, out = sys.argv[1:]

with tempfile.TemporaryDirectory() as folder, de.Engine.create(folder, fine=True) as engine:
    print(engine.add(photos))
    ids = engine.ids()
    groups = DisjointSet(ids)
    # Ids as queries take their features from the engine. Confirmed hits have the verdict of fine evidence.
    results = engine.search_many(ids, top_k=20, top_n=20, confirm=20)
    for query, result in zip(ids, results, strict=True):
        for hit in result:
            if hit.verdict == "same":
                groups.merge(query, hit.id)

found_groups = sorted((sorted(group) for group in groups.subsets()), key=len, reverse=True)
with open(out, "w", encoding="utf-8") as file:
    json.dump(found_groups, file, indent=1)
places = [group for group in found_groups if len(group) > 1]
print(f"{len(places)} places with more than one photograph, {sum(map(len, places))} photographs; wrote {out}")
