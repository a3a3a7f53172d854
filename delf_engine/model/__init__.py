"""The network: trunk, attention head, projection, and the checkpoints that hold them.

`delf_engine.model.checkpoint` reads what a checkpoint says of itself without torch; import
`delf_engine.model.network` and `delf_engine.model.backbones` for the modules.
"""

from delf_engine.model.checkpoint import (
    DEFAULT_MODEL,
    CheckpointInfo,
    checkpoint_names,
    checkpoint_path,
    codebook_path,
    global_head_path,
    load_checkpoint,
    model_reference,
    packaged_folder,
    read_checkpoint_info,
    save_checkpoint,
)
from delf_engine.model.global_head import GlobalHead, load_global_head

__all__ = [
    "DEFAULT_MODEL",
    "CheckpointInfo",
    "GlobalHead",
    "checkpoint_names",
    "checkpoint_path",
    "codebook_path",
    "global_head_path",
    "load_checkpoint",
    "load_global_head",
    "model_reference",
    "packaged_folder",
    "read_checkpoint_info",
    "save_checkpoint",
]
