"""Do two photographs show the same place? Print the answer, and draw what it rests on.

python examples/verify_pair.py a.jpg b.jpg matches.png

"Unsure" is an answer, too: there is something in common, and too little to decide.
"""

import sys

import delf_engine as de
from delf_engine.errors import ImageError
from delf_engine.plotting import save_matches

if len(sys.argv) != 4:
    sys.exit(__doc__)
photo_a, photo_b, picture = sys.argv[1:]

extractor = de.Extractor.from_pretrained("delf-r18")  # load it once, use it for as many pairs as you have
try:
    result = de.verify(photo_a, photo_b, extractor=extractor)
except ImageError as error:
    sys.exit(f"{error.source} cannot be used: {error.reason}")

print(result)  # the verdict, its probability, and the evidence in words
if result.transform is not None:
    print("pixels of a to pixels of b:", result.transform.round(4).tolist())

features_a, features_b = extractor(photo_a), extractor(photo_b)
save_matches(picture, photo_a, photo_b, features_a, features_b, result)
print("wrote", picture)
