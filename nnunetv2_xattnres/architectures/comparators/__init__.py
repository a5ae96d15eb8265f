"""The networks that the paper compares with in Tables 1 and 2, each written from its publication."""
