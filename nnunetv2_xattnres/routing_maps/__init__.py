"""Which entries of the history each pixel listens to: maps, tables, what matters, and the page that shows it."""
