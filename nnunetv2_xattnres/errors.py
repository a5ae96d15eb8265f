"""The one error that a user of the commands is meant to read."""

from collections.abc import Sequence


class InputError(Exception):
    """Input that cannot be used: the command line prints it without a traceback and exits with 2.

    Args:
        summary: One sentence: what is wrong, where, and what to do about it.
        problems: Every single problem found, one line each, with the file it is in.
    """

    def __init__(self, summary: str, problems: Sequence[str] = ()) -> None:
        self.summary = summary
        self.problems = list(problems)
        super().__init__("\n".join([summary, *(f"  - {problem}" for problem in self.problems)]))
