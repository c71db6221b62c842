"""Problems of a bundle: the file, the fault, and a hint at the remedy."""

from dataclasses import dataclass

from cakdbench.utils.errors import StoreError

ANEW = "submit the run as it was recorded"


@dataclass(frozen=True)
class Problem:
    """Something that does not add up.

    A `note` is worth knowing, and no reason to refuse; a `doubt` is a note that keeps maintainers from accepting the
    entry unseen.
    """

    what: str
    hint: str = ANEW
    note: bool = False
    doubt: bool = False

    def __str__(self) -> str:
        return f"{self.what}; {self.hint}"


@dataclass(frozen=True)
class Finding:
    """A problem and its file, relative to the results folder."""

    file: str
    problem: Problem

    @property
    def refused(self) -> bool:
        return not self.problem.note

    def __str__(self) -> str:
        return f"{self.file}: {self.problem}"


class Refused(StoreError):
    """A file of a bundle that is not read any further."""

    def __init__(self, what: str, hint: str = ANEW):
        self.problem = Problem(what, hint)
        super().__init__(str(self.problem))
