"""Converters to nnU-Net raw format, one file a data set."""
