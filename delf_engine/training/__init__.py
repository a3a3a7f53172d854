"""Training by recipes: stages of sources, losses and teachers, and PCA; see `train`, `recipe` and `contract`."""

from delf_engine.training.config import TrainingConfig, load_training_config
from delf_engine.training.finish import TrainingReport, train
from delf_engine.training.options import Reports, RunOptions

__all__ = ["Reports", "RunOptions", "TrainingConfig", "TrainingReport", "load_training_config", "train"]
