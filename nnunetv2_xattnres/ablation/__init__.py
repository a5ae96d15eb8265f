"""Grids of trainings, local or on SLURM, and their report."""
