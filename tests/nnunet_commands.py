"""nnU-Net's installed commands, and ours, as Python code that takes less time than the commands' files.

A file of a command calls the same function. But every worker process imports that file again, and with it modules
that the worker does not need: two seconds each. ``test_demo.py``, ``test_end_to_end.py`` and ``test_nnunet_matrix.py``
start the files.
"""

from importlib.metadata import entry_points

ONE_PROCESS = ("-npp", 0, "-nps", 0)
"""For ``nnUNetv2_predict``: what is predicted is the same without processes that read and write images."""

# nnU-Net draws 10**8 intensities for the means and percentiles of a fingerprint, however few pixels there are
FEW_INTENSITIES = (
    "from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import DatasetFingerprintExtractor; "
    "DatasetFingerprintExtractor.num_foreground_voxels_for_intensitystats = "
    "property(lambda self: 10**5, lambda self, value: None); "
)


def code_of(command: str) -> str:
    """One line of Python that does what the installed command does; planning draws few intensities."""
    (point,) = entry_points(group="console_scripts", name=command)
    code = f"import sys; from {point.module} import {point.attr} as main; sys.exit(main())"
    return FEW_INTENSITIES + code if command == "nnUNetv2_plan_and_preprocess" else code
