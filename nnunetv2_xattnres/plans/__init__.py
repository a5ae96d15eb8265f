"""Reading and writing of plans files: variants and studies."""
