"""``nnunetv2_xattnres export``: a trained model for programs that have neither nnU-Net nor this package.

``program.py`` traces the network with ``torch.export``, ``onnx_file.py`` converts it, ``surroundings.py`` describes
what is around the network, and ``predict_onnx.py`` is the script that is written beside them.
"""
