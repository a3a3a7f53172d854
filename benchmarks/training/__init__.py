"""What the ingredients of a checkpoint bring, and how fast it is trained."""
