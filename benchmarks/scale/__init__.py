"""Benchmarks of collections past one machine."""
