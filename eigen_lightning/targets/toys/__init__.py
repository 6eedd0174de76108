"""Toy networks whose features are known."""
