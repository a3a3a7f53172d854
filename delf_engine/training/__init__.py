"""Training without labels: trunk tuning, match-head attention, PCA; see `recipe.train`."""

from delf_engine.training.config import TrainingConfig, load_training_config

__all__ = ["TrainingConfig", "load_training_config"]
