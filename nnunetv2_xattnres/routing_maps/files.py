"""Maps as files: 4D NIfTI with the case's geometry for volumes, npz for 2D images and what has no geometry.

Both are written one entry after another, so that a single entry is in memory.
"""

from __future__ import annotations

import gzip
import io
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import nibabel as nib
import numpy as np

from nnunetv2_xattnres.outputs import written

WEIGHTS, ENTRIES = "weights", "entries"


class MapFile(Protocol):
    """Takes the entries of one stage, in order."""

    def add(self, channel: np.ndarray) -> None:
        """Write one entry, float32, three axes in the order of nnU-Net's readers (slowest first)."""


def affine_of(properties: dict[str, Any]) -> np.ndarray | None:
    """Voxel (x, y, z) to mm as NIfTI counts them, from what nnU-Net's reader says; None for a 2D image or pixels."""
    if "nibabel_stuff" in properties:
        stuff = properties["nibabel_stuff"]
        return np.asarray(stuff.get("reoriented_affine", stuff.get("original_affine")), dtype=float)
    stuff = properties.get("sitk_stuff")
    if stuff is None or len(stuff["spacing"]) != 3:
        return None
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(stuff["direction"], (3, 3)) * np.asarray(stuff["spacing"])
    affine[:3, 3] = stuff["origin"]
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine  # SimpleITK's axes point left and back, NIfTI's right and front


def map_name(case: str, stage: str, affine: np.ndarray | None) -> str:
    """File name of a stage's maps."""
    return f"{case}_{stage.replace(' ', '_').replace('/', '_')}{'.npz' if affine is None else '.nii.gz'}"


@contextmanager
def map_file(path: Path, entries: Sequence[str], shape: Sequence[int], affine: np.ndarray | None) -> Iterator[MapFile]:
    """Open a file for the maps of one stage; it appears whole, or not at all.

    Args:
        path: Ends in ``.nii.gz`` with an affine, in ``.npz`` without.
        entries: Names, in the order in which the maps are added.
        shape: Of each map. A 2D image has one slice, and loses that axis in the file.
        affine: Voxel to mm, or None.
    """
    with written(path) as partial:
        if affine is None:
            with zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
                names = io.BytesIO()
                np.save(names, np.array(entries))
                archive.writestr(f"{ENTRIES}.npy", names.getvalue())
                with archive.open(f"{WEIGHTS}.npy", "w", force_zip64=True) as stream:
                    inner = tuple(shape[1:] if shape[0] == 1 else shape)
                    head = {"descr": "<f4", "fortran_order": False, "shape": (len(entries), *inner)}
                    np.lib.format.write_array_header_1_0(stream, head)
                    yield _Stream(stream)
            return
        header = nib.Nifti1Header()
        header.set_data_dtype("<f4")
        header.set_data_shape((*reversed(shape), len(entries)))
        header.set_xyzt_units("mm")
        header.set_zooms((*np.linalg.norm(affine[:3, :3], axis=0), 1.0))
        header.set_qform(affine, code=1)
        header.set_sform(affine, code=1)
        header["magic"], header["vox_offset"] = b"n+1", 352
        header["descrip"] = b"XAttnRes routing weights, one entry per volume"
        with gzip.open(partial, "wb", compresslevel=1) as stream:
            header.write_to(stream)  # with the four bytes that say that there are no extensions
            yield _Stream(stream)


class _Stream:
    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def add(self, channel: np.ndarray) -> None:
        for part in channel:  # slice by slice: compressing a whole volume at once would copy it
            self._stream.write(np.ascontiguousarray(part, dtype="<f4").tobytes())
