"""``nnUNetTrainer_XAttnRes`` with fewer epochs, as nnU-Net has them, and two for trials and the demo on a CPU."""

from nnunetv2_xattnres.trainers.xattnres import nnUNetTrainer_XAttnRes


class nnUNetTrainer_XAttnRes_5epochs(nnUNetTrainer_XAttnRes):
    """5 epochs."""

    epochs = 5


class nnUNetTrainer_XAttnRes_10epochs(nnUNetTrainer_XAttnRes):
    """10 epochs."""

    epochs = 10


class nnUNetTrainer_XAttnRes_50epochs(nnUNetTrainer_XAttnRes):
    """50 epochs."""

    epochs = 50


class nnUNetTrainer_XAttnRes_100epochs(nnUNetTrainer_XAttnRes):
    """100 epochs."""

    epochs = 100


class nnUNetTrainer_XAttnRes_250epochs(nnUNetTrainer_XAttnRes):
    """250 epochs."""

    epochs = 250


class nnUNetTrainer_XAttnRes_Trial(nnUNetTrainer_XAttnRes):
    """2 epochs of 20 iterations, 5 for validation, to test whether a training runs on a machine and with its data."""

    epochs = 2
    iterations = 20
    validation_iterations = 5


class nnUNetTrainer_XAttnRes_Demo(nnUNetTrainer_XAttnRes):
    """3 epochs of 50 iterations, 4 for validation: enough to learn the demo's drawings in one or two minutes."""

    epochs = 3
    iterations = 50
    validation_iterations = 4
