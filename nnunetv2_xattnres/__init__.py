"""XAttnRes (cross-stage attention residuals, arXiv 2604.03297) as a plug-in for nnU-Net v2."""

from importlib.metadata import version

__version__ = version("nnunetv2-xattnres")
