"""Converters to nnU-Net raw format, one file per data set."""
