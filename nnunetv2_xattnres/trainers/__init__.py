"""Trainers for nnU-Net, found through the hook ``nnUNet_extTrainer``."""
