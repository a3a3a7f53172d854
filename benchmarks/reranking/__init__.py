"""Shortlists: how fast they are re-ranked, and what profiles and second rounds bring."""
