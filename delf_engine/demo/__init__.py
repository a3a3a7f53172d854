"""The demo: a photo collection rendered from packaged photographs, searched with the whole engine."""
