"""Training by recipes: stages of sources, losses and teachers, and PCA; see `recipe.train` and `contract`."""

from delf_engine.training.config import TrainingConfig, load_training_config

__all__ = ["TrainingConfig", "load_training_config"]
