"""For nnUNet_extTrainer: a trainer for tests that ask whether commands work, and not what is learned."""

from nnunetv2_xattnres.trainers import nnUNetTrainer_XAttnRes


class nnUNetTrainer_XAttnRes_Short(nnUNetTrainer_XAttnRes):
    epochs, iterations, validation_iterations = 1, 2, 1

    def initialize(self) -> None:
        super().initialize()
        self.logger.plot_progress_png = lambda folder: None  # a second for each epoch


class nnUNetTrainer_XAttnRes_Unvalidated(nnUNetTrainer_XAttnRes_Short):
    """For tests of the weights alone: two processes predict and score the validation cases, and import torch for it."""

    def perform_actual_validation(self, save_probabilities: bool = False) -> None:
        pass
