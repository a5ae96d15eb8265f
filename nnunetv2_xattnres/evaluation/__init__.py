"""Scores, conventions and tables."""
