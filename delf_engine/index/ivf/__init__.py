"""Single descriptors at scale: inverted lists of faiss, mapped from disk."""
