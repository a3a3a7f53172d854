"""Published models to checkpoints of this package: DELF and DELG (TensorFlow), HOW, torchvision.

Nothing here needs TensorFlow. `import_model` does all of it.
"""

from delf_engine.interchange.published.convert import KINDS, ImportedModel, import_model

__all__ = ["KINDS", "ImportedModel", "import_model"]
