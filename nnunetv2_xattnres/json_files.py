"""JSON files: read with one message where they cannot be used, and written whole or not at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from nnunetv2_xattnres.errors import InputError
from nnunetv2_xattnres.outputs import written


def read_json(path: Path, advice: str = "repair it, or remove it to start anew") -> Any:
    """The content of a file, ``None`` if it does not exist.

    Raises:
        InputError: it may not be read, or is not JSON, with ``advice``.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error})") from error
    except ValueError as error:
        raise InputError(f"{path} cannot be read as JSON ({error}): {advice}") from error


def read_object(path: Path, advice: str = "repair it, or remove it to start anew") -> dict[str, Any] | None:
    """Like :func:`read_json`, for files that hold an object.

    Raises:
        InputError: also if the file holds something else.
    """
    content = read_json(path, advice)
    if content is not None and not isinstance(content, dict):
        raise InputError(f"{path} holds a {type(content).__name__} and not an object: {advice}")
    return content


def check_format(content: dict[str, Any], path: Path, newest: int) -> None:
    """See that this version can read a file: its ``format`` is a number, and 1 where the first versions left it out.

    Raises:
        InputError: it is newer than ``newest``.
    """
    found = content.get("format", 1)
    if not isinstance(found, int) or found > newest:
        raise InputError(
            f"{path} has format {found}, and this version of nnunetv2_xattnres reads formats up to {newest}: update it"
        )


def write_json(path: Path, content: dict[str, Any] | list[Any]) -> None:
    """Write a file, and its folder if needed; the file appears whole or not at all.

    Raises:
        InputError: the system refuses, or the disk is full.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error.strerror or error})") from error
    text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
    with written(path) as partial:
        partial.write_text(text, encoding="utf-8")
