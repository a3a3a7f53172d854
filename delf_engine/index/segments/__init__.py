"""Collections of images in memory and on disk, whatever an index keeps of each."""
