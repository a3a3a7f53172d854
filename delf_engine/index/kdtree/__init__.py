"""KD-trees over single descriptors, and the votes of their neighbours for images."""
