"""Checks that nnU-Net's readers do not make: for cut-off and huge files, and for images in different places."""

import gzip
import math
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import SimpleITK as sitk
import tifffile
from nibabel.filebasedimages import ImageFileError
from PIL import Image

from nnunetv2_xattnres.system import memory_bytes

NATURAL = (".png", ".bmp", ".jpg", ".jpeg")
CHUNK = 1 << 20  # bytes at a time
MEMORY_TEXTS = ("bad_alloc", "bad allocation", "allocate memory", "unable to allocate", "out of memory")
NOT_FINITE = "holds values that are not finite (NaN or infinity)"
OUT_OF_MEMORY = "out of memory: close other programs, or add --workers 1, which holds one case at a time"


def check_whole(path: Path) -> None:
    """Check that an image fits into memory, and read a ``.nii`` or ``.nii.gz`` to its end.

    A small file can claim any size, or unpack to it, and the system ends a process that takes all memory. So the size
    is read from the file's header first. PIL's own limit is for ``.png`` and ``.bmp``.

    A killed process or a full disk leaves cut-off files. SimpleITK fills their missing part with zeros, and neither it
    nor nibabel checks the checksum of a ``.gz``, so such a file would count as a case. The readers of other formats
    check this.

    Raises:
        EOFError, gzip.BadGzipFile, zlib.error: the compressed file is cut off or damaged.
        ValueError: it is empty, larger than the memory, or has not the bytes that its header says.
    """
    name = path.name.lower()
    if path.stat().st_size == 0:
        raise ValueError("it is empty (0 bytes)")
    if name.endswith(NATURAL):
        _check_size_with_pil(path)
        return
    if name.endswith((".tif", ".tiff")):
        check_tiff_size(path)
        return
    if not name.endswith((".nii", ".nii.gz")):
        _check_size_with_sitk(path)
        return
    try:
        image = nib.load(path)
    except ImageFileError:  # damaged where it begins, or another kind of file, which the reader checks
        if name.endswith(".gz"):
            _unpacked_length(path, CHUNK)
        return
    check_memory(math.prod(image.shape), image.get_data_dtype().itemsize)
    needed = image.dataobj.offset + image.get_data_dtype().itemsize * math.prod(image.shape)
    length = _unpacked_length(path, 2 * needed) if name.endswith(".gz") else path.stat().st_size
    if length > 2 * needed:
        raise ValueError(f"it unpacks to more than {length} bytes, and its header needs {needed}")
    if length < needed:
        raise ValueError(f"it holds {length} bytes, and its header needs {needed}")


def check_memory(values: int, bytes_of_one: int = 1) -> None:
    """Check that an image of so many values fits into this machine's memory as float32, which nnU-Net makes of it.

    Raises:
        ValueError: it does not.
    """
    needed, memory = values * max(4, bytes_of_one), memory_bytes()
    if memory is not None and needed > memory:
        raise ValueError(f"it unpacks to {needed / 1e9:.0f} GB, and this machine has {memory / 1e9:.0f} GB of memory")


def check_tiff_size(path: Path) -> None:
    """As :func:`check_memory`, for all series of a TIFF. What is no TIFF passes, because the reader reports it.

    Raises:
        ValueError: it does not fit.
    """
    try:
        with tifffile.TiffFile(path) as file:
            sizes = [(math.prod(series.shape), series.dtype.itemsize) for series in file.series if series.dtype]
    except Exception:  # the reader says what is wrong with it
        return
    for values, bytes_of_one in sizes:
        check_memory(values, bytes_of_one)


def differing_geometry(first: dict[str, Any], second: dict[str, Any]) -> list[str]:
    """Differences of origin, direction or affine between the properties of two images from nnU-Net's reader.

    nnU-Net warns about them, and then ignores them.
    """
    found = []
    for stuff, keys in (("sitk_stuff", ("origin", "direction")), ("nibabel_stuff", ("original_affine",))):
        ours, theirs = first.get(stuff, {}), second.get(stuff, {})
        for key in keys:
            if key not in ours or key not in theirs:
                continue
            one, other = np.asarray(ours[key]), np.asarray(theirs[key])
            if one.shape != other.shape or not np.allclose(one, other, rtol=1e-3, atol=1e-3):
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


def _check_size_with_pil(path: Path) -> None:
    try:
        with Image.open(path):
            pass
    except Image.DecompressionBombError as error:
        raise ValueError(str(error)) from error
    except Exception:
        return  # the reader says what is wrong with it


def _check_size_with_sitk(path: Path) -> None:
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError:
        return  # the reader says what is wrong with it
    check_memory(math.prod(reader.GetSize()) * reader.GetNumberOfComponents())


def _unpacked_length(path: Path, most: int) -> int:
    """The length; reading ends behind ``most`` bytes, because a small file can unpack to any length."""
    length = 0
    with gzip.open(path) as stream:
        while length <= most and (chunk := stream.read(CHUNK)):
            length += len(chunk)
    return length
