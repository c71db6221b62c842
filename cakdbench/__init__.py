"""cakdbench: a benchmark suite for cross-architecture knowledge distillation.

The functions here are for Python programs and notebooks. Each is imported when it is used, so that `import cakdbench`
is quick. Accuracies are in percent, differences in points.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cakdbench.api import load_results
    from cakdbench.costs.frame import count_costs
    from cakdbench.published.frame import load_published
    from cakdbench.results.cells import summarize
    from cakdbench.results.compare import compare
    from cakdbench.results.load import history, robustness
    from cakdbench.training import create_method, make_batch, run

__version__ = "0.1.0"
__all__ = [
    "__version__",
    "compare",
    "count_costs",
    "create_method",
    "history",
    "load_published",
    "load_results",
    "make_batch",
    "robustness",
    "run",
    "summarize",
]
_HOMES = {
    "compare": "results.compare",
    "count_costs": "costs.frame",
    "create_method": "training",
    "history": "results.load",
    "load_published": "published.frame",
    "load_results": "api",
    "make_batch": "training",
    "robustness": "results.load",
    "run": "training",
    "summarize": "results.cells",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'cakdbench' has no attribute {name!r}")
    return getattr(import_module(f"cakdbench.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
