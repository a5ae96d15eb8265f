"""Reads and writes plans files: variants and studies."""
