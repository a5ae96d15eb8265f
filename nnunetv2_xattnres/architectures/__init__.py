"""The networks and the mechanism: what a plans file can name."""
