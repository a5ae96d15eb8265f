"""Digests of a study's configurations: its cells are compared, so all of them have to be of the same plans."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Any

from nnunetv2_xattnres.ablation.study import Study
from nnunetv2_xattnres.errors import InputError
from nnunetv2_xattnres.plans.files import resolve


def digests(plans: dict[str, Any], configurations: Iterable[str]) -> dict[str, str]:
    """Name to the digest of everything that a configuration holds and inherits; those not in the plans are left out."""
    found = {}
    for name in configurations:
        if name in plans["configurations"]:
            content = json.dumps(resolve(plans, name), sort_keys=True)
            found[name] = hashlib.sha256(content.encode()).hexdigest()[:16]
    return found


def check_unchanged(study: Study, plans: dict[str, Any], configurations: Iterable[str]) -> None:
    """Stop if a configuration is not what it was when the study was planned.

    A study of a version that kept no digests passes.

    Raises:
        InputError: with a line for each.
    """
    known = {name: study.digests[name] for name in configurations if name in study.digests}
    now = digests(plans, known)
    problems = [
        f"configuration {name} is {'different' if name in now else 'gone'}"
        for name, digest in known.items()
        if now.get(name) != digest
    ]
    if problems:
        raise InputError(
            f"{study.plans} changed after the study in {study.folder} was planned: give another folder with --output, "
            "or put the plans back as they were",
            problems,
        )
