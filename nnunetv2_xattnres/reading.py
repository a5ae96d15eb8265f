"""Checks that nnU-Net's readers do not make: for cut-off files, and for images in different places."""

import gzip
import math
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError

CHUNK = 1 << 20  # bytes at a time
MEMORY_TEXTS = ("bad_alloc", "bad allocation", "allocate memory", "unable to allocate", "out of memory")
OUT_OF_MEMORY = "out of memory: close other programs, or add --workers 1, which holds one case at a time"


def check_whole(path: Path) -> None:
    """Read a ``.nii`` or ``.nii.gz`` to its end. Files of other formats pass, because their readers check them.

    A killed process or a full disk leaves cut-off files. SimpleITK fills their missing part with zeros, and neither it
    nor nibabel checks the checksum of a ``.gz``, so such a file would count as a case.

    Raises:
        EOFError, gzip.BadGzipFile, zlib.error: the compressed file is cut off or damaged.
        ValueError: it has fewer bytes than its header says.
    """
    name = path.name.lower()
    if not name.endswith((".nii", ".nii.gz")):
        return
    length = _unpacked_length(path) if name.endswith(".gz") else path.stat().st_size
    try:
        image = nib.load(path)
    except ImageFileError:
        return  # not cut off but another kind of file, which the reader checks
    needed = image.dataobj.offset + image.get_data_dtype().itemsize * math.prod(image.shape)
    if length < needed:
        raise ValueError(f"it holds {length} bytes, and its header needs {needed}")


def differing_geometry(first: dict[str, Any], second: dict[str, Any]) -> list[str]:
    """Differences of origin, direction or affine between the properties of two images from nnU-Net's reader.

    nnU-Net warns about them, and then ignores them.
    """
    found = []
    for stuff, keys in (("sitk_stuff", ("origin", "direction")), ("nibabel_stuff", ("original_affine",))):
        ours, theirs = first.get(stuff, {}), second.get(stuff, {})
        for key in keys:
            if key in ours and key in theirs and not np.allclose(ours[key], theirs[key], rtol=1e-3, atol=1e-3):
                found.append(key.removeprefix("original_"))
    return found


def stop_without_memory(error: BaseException) -> None:
    """Raise `MemoryError` if ``error`` means that memory ran out, so that the file may be right.

    C++ libraries (SimpleITK) report this as another error.
    """
    if isinstance(error, MemoryError) or any(text in str(error).lower() for text in MEMORY_TEXTS):
        raise MemoryError(str(error)) from error


def exactly(value: float) -> str:
    """A number with enough digits to distinguish it from a whole number: 1, but 1.0000001."""
    short = f"{value:g}"
    return short if float(short) == value or not math.isfinite(value) else f"{value:.9g}"


def _unpacked_length(path: Path) -> int:
    length = 0
    with gzip.open(path) as stream:
        while chunk := stream.read(CHUNK):
            length += len(chunk)
    return length
