"""The error for users: all commands report bad input with it."""

import re
from collections.abc import Sequence
from pathlib import PurePath

EXAMPLES = 3
FEW = 5


class InputError(Exception):
    """Input that cannot be used. The command line prints it without a traceback and exits with 2.

    Args:
        summary: One sentence: what is wrong, where, and what to do about it.
        problems: One line per problem, with its file.
    """

    def __init__(self, summary: str, problems: Sequence[str] = ()) -> None:
        self.summary = summary
        self.problems = list(problems)
        super().__init__("\n".join([summary, *(f"  - {line}" for line in folded(self.problems))]))


def folded(problems: Sequence[str]) -> list[str]:
    """The lines; lines that differ only in their file become one line with their number and three examples.

    A line is ``FILE: what is wrong`` or ``FILE what is wrong``. Up to three equal ones stay unchanged.
    """
    groups: dict[str, list[tuple[str, str]]] = {}
    for problem in problems:
        file, colon, text = problem.partition(": ")
        if not colon:
            file, _, text = problem.partition(" ")
        stem = PurePath(file).name.split(".")[0]
        groups.setdefault(re.sub(rf"(?<!\w){re.escape(stem)}(?=[._]\w)", "NAME", text) if stem else text, []).append(
            (problem, file)
        )
    lines: list[str] = []
    for text, group in groups.items():
        if len(group) <= EXAMPLES:
            lines += [problem for problem, _ in group]
        else:
            examples = ", ".join(file for _, file in group[:EXAMPLES])
            lines.append(f"{text} ({len(group)} times: {examples} and {len(group) - EXAMPLES} more)")
    return lines


def few(texts: Sequence[str]) -> str:
    """The first five texts, separated by commas, and how many more there are."""
    return ", ".join(texts[:FEW]) + (f" and {len(texts) - FEW} more" if len(texts) > FEW else "")
