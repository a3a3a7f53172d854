"""Published models to checkpoints of this package: DELF and DELG (TensorFlow), HOW, torchvision.

Nothing here needs TensorFlow. `import_model` does all of it; the readers of the formats can be used alone:
`delf_engine.importing.datum`, `delf_engine.importing.bundle`.
"""

from delf_engine.importing.convert import KINDS, import_model

__all__ = ["KINDS", "import_model"]
