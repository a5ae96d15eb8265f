"""Finds files: folders in upper or lower case, files by pattern, images with their masks."""

import re
from pathlib import Path

from nnunetv2_xattnres.dataset_conversion.images import ENDINGS

IMAGE_ENDING = "(?:" + "|".join(re.escape(ending) for ending in ENDINGS) + ")"


def subfolder(folder: Path, *parts: str) -> Path | None:
    """``folder/part/part``, in upper or lower case, or None."""
    for part in parts:
        if not folder.is_dir():
            return None
        exact = folder / part
        matches = [exact] if exact.is_dir() else sorted(folder.iterdir())
        found = next((path for path in matches if path.is_dir() and path.name.lower() == part.lower()), None)
        if found is None:
            return None
        folder = found
    return folder


def index_files(folder: Path, pattern: str, problems: list[str], *, skip: str | None = None) -> dict[str, Path]:
    """The files of ``folder`` by the keys that ``pattern`` finds in their names.

    Args:
        folder: The folder; its hidden files are ignored, and so are files that are no images.
        pattern: Matches the whole name, in upper or lower case; its first group is the key. Leading zeros of a number
            are removed.
        problems: Gets a line per image with another name, per second file with the same key, and per link to nothing.
        skip: Pattern of names that are ignored.
    """
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.is_symlink() and not path.exists():  # for example from git-annex, before the content is fetched
            problems.append(f"{path}: is a link to {path.readlink()}, which does not exist")
        if path.name.startswith(".") or not path.is_file():
            continue
        if skip and re.fullmatch(skip, path.name, re.IGNORECASE):
            continue
        match = re.fullmatch(pattern, path.name, re.IGNORECASE)
        if match is None:
            if path.name.lower().endswith((*ENDINGS, ".nii", ".nii.gz")):
                problems.append(f"{path}: this name is not expected here (but {_readable(pattern)})")
            continue
        key = match.group(1).lower()
        key = str(int(key)) if key.isdecimal() else key
        if key in found:
            problems.append(f"{path}: a second file for the same case, beside {found[key].name}")
        else:
            found[key] = path
    return found


def pair(
    images: dict[str, Path], masks: dict[str, Path], mask_folder: Path, problems: list[str]
) -> list[tuple[str, Path, Path]]:
    """(key, image, mask) in the order of the keys; adds a line to ``problems`` per file without a partner."""
    for key in sorted(images.keys() - masks.keys(), key=natural):
        problems.append(f"{images[key]}: has no mask in {mask_folder}")
    for key in sorted(masks.keys() - images.keys(), key=natural):
        problems.append(f"{masks[key]}: is a mask without an image")
    return [(key, images[key], masks[key]) for key in sorted(images.keys() & masks.keys(), key=natural)]


def natural(key: str) -> tuple[int, str]:
    """Sort key that puts 2 before 10."""
    return (int(key), "") if key.isdecimal() else (0, key)


def _readable(pattern: str) -> str:
    """A pattern for messages: ``ISIC_NNNNNNN.jpg`` instead of a regular expression."""
    text = pattern.replace(IMAGE_ENDING, ".png or another image ending").replace(r"(?:\.gz)?", "[.gz]")
    text = re.sub(r"\(\\d\{(\d+)\}\)", lambda match: "N" * int(match.group(1)), text).replace(r"(\d+)", "N")
    return text.replace(r"(\w+)", "NAME").replace("jpe?g", "jpg").replace("\\", "")
