"""The trainer of ``nnunetv2_xattnres demo``."""

from nnunetv2_xattnres.trainers.xattnres import nnUNetTrainer_XAttnRes


class nnUNetTrainer_XAttnRes_Demo(nnUNetTrainer_XAttnRes):
    """3 epochs of 50 iterations, 4 for validation: enough to learn the demo's drawings in one or two minutes."""

    epochs = 3
    iterations = 50
    validation_iterations = 4
