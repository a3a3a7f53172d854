"""What features cost, which choices their defaults rest on, and how they do on photographs that made none."""
