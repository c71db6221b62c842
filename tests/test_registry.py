"""Registration: what a method must keep to, and what its source hash covers."""

import hashlib
import sys
from pathlib import Path

import pytest

from cakdbench.errors import UsageError
from cakdbench.method import Method
from cakdbench.registry import get_method, load_file, register, source_hash


def enter(id: str, aliases: tuple[str, ...] = (), **attributes: object) -> type[Method]:
    return register(id, title="", paper="", url="", aliases=aliases)(type("Mine", (Method,), attributes))


@pytest.mark.parametrize(("id", "aliases"), [("kd", ()), ("tas", ()), ("mine", ("fbt",)), ("mine", ("tas",))])
def test_a_taken_id_or_alias_is_refused(id, aliases):
    get_method("kd")  # the built-in methods are registered on first use
    with pytest.raises(UsageError, match="is taken by"):
        enter(id, aliases)


def test_what_the_teacher_cannot_give_is_refused_with_what_it_can():
    with pytest.raises(UsageError, match="needs tokens of the teacher; what it can give is logits, pooled, stages"):
        enter("greedy", needs=frozenset({"logits", "tokens"}))


def test_an_alias_is_the_method_itself():
    assert get_method("tas") is get_method("fbt")


METHOD = """
from cakdbench.method import Method
from cakdbench.registry import register

@register("{id}", title="", paper="", url="")
class Mine(Method):
    factor = {factor}
"""


def test_two_files_of_one_name_are_two_methods_each_with_the_hash_of_its_own_source(tmp_path):
    hashes = []
    for folder, factor in (("a", 1), ("b", 2)):
        path = tmp_path / folder / "same_name.py"
        path.parent.mkdir()
        path.write_text(METHOD.format(id=f"mine_{folder}", factor=factor))
        load_file(path)
        hashes.append((f"mine_{folder}", hashlib.sha256(path.read_bytes()).hexdigest()))
    assert [(id, source_hash(get_method(id))) for id, _ in hashes] == hashes


def test_the_source_hash_of_fbt_covers_the_ofa_loss_it_imports():
    own = Path(sys.modules[get_method("fbt").__module__].__file__).read_bytes()
    both = b"\0".join([own, Path(sys.modules[get_method("ofa").__module__].__file__).read_bytes()])
    assert source_hash(get_method("fbt")) == hashlib.sha256(both).hexdigest()
