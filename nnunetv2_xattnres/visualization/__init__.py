"""Overlays, charts and routing maps."""
