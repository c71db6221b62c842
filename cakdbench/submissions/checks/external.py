"""Check that an external number names a pair that exists."""

from collections.abc import Iterator

from cakdbench.grid.suites import Pair
from cakdbench.submissions.entry import ExternalEntry
from cakdbench.submissions.findings import Problem
from cakdbench.utils.errors import UsageError


def check_external(entry: ExternalEntry) -> Iterator[Problem]:
    try:
        Pair.parse(entry.pair)
    except UsageError as error:
        yield Problem(f"its pair does not exist: {error}", "name a pair as in swin_t>resnet18@cifar100")
