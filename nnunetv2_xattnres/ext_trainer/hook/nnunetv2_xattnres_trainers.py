"""Shows nnU-Net the trainers of the installed package (see ``nnUNet_extTrainer``)."""

from nnunetv2_xattnres.trainers import *  # noqa: F403
