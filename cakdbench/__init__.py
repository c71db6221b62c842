"""cakdbench: a benchmark suite for cross-architecture knowledge distillation.

What stands here is for Python programs and notebooks. It is imported when it is used, so that `import cakdbench` is
quick.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cakdbench.api import compare, history, load_published, load_results, summarize
    from cakdbench.training import create_method, run

__version__ = "0.1.0"
__all__ = [
    "__version__",
    "compare",
    "create_method",
    "history",
    "load_published",
    "load_results",
    "run",
    "summarize",
]
_TRAINING = ("create_method", "run")


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'cakdbench' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module("cakdbench.training" if name in _TRAINING else "cakdbench.api"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
