"""Reads JSON files with one message if they cannot be used, and writes them completely or not at all."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nnunetv2_xattnres.errors import InputError
from nnunetv2_xattnres.outputs import written

_ADVICE = "repair it, or remove it to start anew"
_KINDS = {
    dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null", float: "a number",
}  # fmt: skip


def read_json(path: Path, advice: str = _ADVICE) -> Any:
    """The content of a file, ``None`` if it does not exist.

    Raises:
        InputError: it cannot be read, or is not JSON; the message ends with ``advice``.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error})") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read as JSON ({error}): {advice}") from error


def read_object(
    path: Path, advice: str = _ADVICE, *, entries: Mapping[str, type] | None = None
) -> dict[str, Any] | None:
    """Like :func:`read_json`, for files that contain an object.

    Args:
        path: The file.
        advice: What the user should do if it cannot be used.
        entries: Required keys, and the type of each: ``dict``, ``list``, ``str``, or ``float`` for any number.

    Raises:
        InputError: also if the file contains something else.
    """
    content = read_json(path, advice)
    if content is None and not path.is_file():
        return None
    if not isinstance(content, dict):
        raise InputError(f"{path} holds {kind_of(content)} and not an object: {advice}")
    check_entries(content, str(path), entries or {}, advice)
    return content


def require_object(path: Path, missing: str, advice: str = _ADVICE, *, entries: Mapping[str, type]) -> dict[str, Any]:
    """Like :func:`read_object`, for a file that must exist; ``missing`` is what the user should do if it does not.

    Raises:
        InputError: also if the file does not exist.
    """
    content = read_object(path, advice, entries=entries)
    if content is None:
        raise InputError(f"{path} does not exist: {missing}")
    return content


def check_entries(
    content: Mapping[str, Any],
    source: str,
    entries: Mapping[str, type],
    advice: str = _ADVICE,
    *,
    optional: Mapping[str, type] | None = None,
) -> None:
    """Check that an object has these keys, with values of these types.

    Args:
        content: The object.
        source: Its file, for the message.
        entries: See :func:`read_object`.
        advice: What the user should do.
        optional: Further keys, which may be missing or null.

    Raises:
        InputError: keys are missing or have another type; the message lists them.
    """
    given = {**entries, **{key: kind for key, kind in (optional or {}).items() if content.get(key) is not None}}
    problems = [f"has no {key}" for key in entries if key not in content]
    problems += [
        f"has {kind_of(content[key])} under {key} and not {_KINDS[kind]}"
        for key, kind in given.items()
        if key in content and kind_of(content[key]) != _KINDS[kind]
    ]
    if problems:
        raise InputError(f"{source} {', '.join(problems)}: {advice}")


def kind_of(value: Any) -> str:
    """The JSON name of a value's type, with its article."""
    return _KINDS.get(type(value), "a number")


def check_format(content: dict[str, Any], path: Path, newest: int) -> None:
    """Check that this version can read a file by its number ``format``, which is 1 if the file has none.

    Raises:
        InputError: the number is above ``newest``.
    """
    found = content.get("format", 1)
    if not isinstance(found, int) or found > newest:
        raise InputError(
            f"{path} has format {found}, and this version of nnunetv2_xattnres reads formats up to {newest}: update it"
        )


def write_json(path: Path, content: dict[str, Any] | list[Any]) -> None:
    """Write a file completely or not at all, and create its folder if needed.

    Raises:
        InputError: the system refuses to write, or the disk is full.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error.strerror or error})") from error
    text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
    with written(path) as partial:
        partial.write_text(text, encoding="utf-8")
