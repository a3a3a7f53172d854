"""Losses, one small file each; `delf_engine.training.registry` names them."""
