"""`cakdbench new`: a method file to start from, and its test."""

import importlib.util
import keyword
import re
from pathlib import Path
from string import Template

from cakdbench.registry import taken
from cakdbench.utils.errors import UsageError

TEMPLATES = Path(__file__).with_name("templates")


def write_method(name: str, folder: Path) -> tuple[Path, Path]:
    """Write `NAME.py`, a variant of KD with comments, and `test_NAME.py`; returns their paths.

    Raises:
        UsageError: the name cannot be an id, is taken, a file of that name exists, or none can be written.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or keyword.iskeyword(name):
        raise UsageError(f"{name!r} cannot be a method's id: use small letters, digits and underscores, as in my_kd")
    if importlib.util.find_spec(name):
        raise UsageError(f"{name!r} is the name of a Python module, which {name}.py would hide: choose another name")
    if taken(name):
        raise UsageError(f"{name!r} is a registered method already: choose another name")
    paths = folder / f"{name}.py", folder / f"test_{name}.py"
    for path in paths:
        if path.exists():
            raise UsageError(f"{path} exists: choose another name, or another --folder")
    words = name.split("_")
    facts = {"id": name, "title": " ".join(words).upper(), "class_name": "".join(map(str.capitalize, words)) + "Method"}
    templates = ((TEMPLATES / name).read_text(encoding="utf-8") for name in ("method.txt", "test.txt"))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, template in zip(paths, templates):
            path.write_text(Template(template).substitute(facts), encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot write into {folder} ({error.strerror}): choose another --folder") from error
    return paths
