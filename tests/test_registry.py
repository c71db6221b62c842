"""Registration: what a method must keep to, and what its source hash covers."""

import hashlib
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from pydantic import ValidationError

from cakdbench.method import Method
from cakdbench.models.zoo import model_info
from cakdbench.records import MethodIdentity
from cakdbench.registry import get_method, load_file, method_of_record, register, resolve_config
from cakdbench.source_hash import bare, source_hash
from cakdbench.utils.errors import UsageError


def enter(id: str, aliases: tuple[str, ...] = (), **attributes: object) -> type[Method]:
    return register(id, title="", paper="", url="", aliases=aliases)(type("Mine", (Method,), attributes))


@pytest.mark.parametrize(("id", "aliases"), [("kd", ()), ("tas", ()), ("mine", ("fbt",)), ("mine", ("tas",))])
def test_a_taken_id_or_alias_is_refused(id, aliases):
    get_method("kd")  # the built-in methods are registered on first use
    with pytest.raises(UsageError, match="is taken by"):
        enter(id, aliases)


@pytest.mark.parametrize(
    "id", ["", "-kd2", "kd2-", "k d", "../kd2", "/kd2", "a/b", "a\\b", "kd.2", "kd:2", "ünit", "k" * 65, "x\x1b[2J"]
)
def test_an_id_that_cannot_name_a_folder_everywhere_is_refused_where_it_is_registered_and_read(id):
    with pytest.raises(UsageError, match="1 to 64 letters, digits"):
        enter(id)
    with pytest.raises(UsageError, match="1 to 64 letters, digits"):
        enter("fine", aliases=(id,))
    with pytest.raises(ValidationError, match="1 to 64 letters, digits"):
        MethodIdentity(id=id, version=1, config={})


@pytest.mark.parametrize("id", ["con", "NUL", "Com1", "lpt9", "all", "external"])
def test_an_id_with_a_meaning_of_its_own_is_refused(id):
    with pytest.raises(UsageError, match="a name with a meaning of its own"):
        enter(id)


@pytest.mark.parametrize("id", ["KD", "Fbt", "TAS", "Scratch"])
def test_ids_that_differ_in_capital_letters_only_are_refused(id):
    get_method("kd")
    with pytest.raises(UsageError, match="in capital letters only"):
        enter(id)
    with pytest.raises(UsageError, match="is another name of"):
        method_of_record(id)


def test_a_record_names_a_method_by_its_id_alone():
    assert method_of_record("fbt") is get_method("fbt") and method_of_record("nothing") is None
    with pytest.raises(UsageError, match="tas is another name of fbt"):
        method_of_record("tas")


def test_what_the_teacher_cannot_give_is_refused_with_what_it_can():
    with pytest.raises(UsageError, match="needs tokens of the teacher; what it can give is attention, logits, model"):
        enter("greedy", needs=frozenset({"logits", "tokens"}))


def test_an_alias_is_the_method_itself():
    assert get_method("tas") is get_method("fbt")


def test_an_unknown_kind_is_refused():
    with pytest.raises(UsageError, match="unknown kind of odd 'magic'"):
        register("odd", title="", paper="", url="", kind="magic")(type("Odd", (Method,), {}))


METHOD = """
from cakdbench.method import Method
from cakdbench.registry import register

@register("{id}", title="", paper="", url="")
class Mine(Method):
    factor = {factor}
"""


def hash_of(path: Path, text: str) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    (id,) = load_file(path)
    return source_hash(get_method(id))


def test_two_files_of_one_name_are_two_methods_each_with_the_hash_of_its_own_source(tmp_path):
    hashes = [
        hash_of(tmp_path / folder / "same_name.py", METHOD.format(id=f"mine_{folder}", factor=1)) for folder in "ab"
    ]
    expected = [bare(METHOD.format(id=f"mine_{folder}", factor=1)) for folder in "ab"]
    assert hashes == [hashlib.sha256(text.encode()).hexdigest() for text in expected]


def test_words_about_the_code_do_not_change_the_hash_and_code_does(tmp_path):
    plain = METHOD.format(id="words", factor=3)
    told = '"""What it does,\nin two lines – with a dash."""\n# a remark\n' + plain.replace(
        "    factor", '    """A class."""\n\n    # why\n    factor'
    ).replace("factor = 3", "factor = 3  # as in the paper")
    first = hash_of(tmp_path / "words.py", plain)
    assert bare(told) == bare(plain) and hash_of(tmp_path / "words.py", told) == first
    assert hash_of(tmp_path / "words.py", plain.replace("3", "4")) != first


def test_strings_that_look_like_comments_stay_in_the_hashed_code():
    assert bare('x = "# not a comment"\n') == 'x = "# not a comment"'
    assert bare('def f():\n    """Doc."""\n    return """a # b"""\n') == 'def f():\n    return """a # b"""'


def test_lines_inside_of_a_string_stay_as_they_are_and_odd_characters_cut_nothing():
    text = 'x = """a\n\n  b  \n"""\n'
    assert bare(text) == 'x = """a\n\n  b  \n"""'
    assert bare('def f():\n    """ö – ü"""; y = 1  # ä\n') == "def f():\n    ; y = 1"
    assert bare('x = "a\\x0c"\n\x0cdef g(): pass\n') == 'x = "a\\x0c"\n\x0cdef g(): pass'


def test_a_file_without_a_method_is_an_error_that_says_so(tmp_path):
    path = tmp_path / "empty.py"
    path.write_text("x = 1\n")
    with pytest.raises(UsageError, match="registers no method"):
        load_file(path)


def test_a_method_file_that_is_no_python_file_is_refused_with_a_hint(tmp_path):
    path = tmp_path / "mine.txt"
    path.write_text(METHOD.format(id="mine_as_text", factor=1))
    with pytest.raises(UsageError, match=r"mine\.txt is no Python file: give it a name that ends in \.py"):
        load_file(path)


def test_an_outside_method_has_the_versions_of_the_built_in_methods_it_uses_in_its_hash(tmp_path, monkeypatch):
    path = tmp_path / "borrower.py"
    path.write_text("from cakdbench.methods.kd import kd_loss\n" + METHOD.format(id="borrower", factor=1))
    load_file(path)
    expected = hashlib.sha256(f"{bare(path.read_text())}\0kd version 1".encode()).hexdigest()
    assert source_hash(get_method("borrower")) == expected
    monkeypatch.setattr(get_method("kd"), "version", 2)
    assert source_hash(get_method("borrower")) != expected


def test_the_source_hash_of_fbt_covers_its_parts_and_the_ofa_loss_it_imports():
    folder = Path(sys.modules[get_method("fbt").__module__].__file__).parent
    together = "\0".join(bare((folder / f"{name}.py").read_text()) for name in ("fbt", "fbt_parts", "ofa"))
    assert source_hash(get_method("fbt")) == hashlib.sha256(together.encode()).hexdigest()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"gamma": True}, ["gamma: must be a number", "True"]),
        ({"gamma": "high"}, ["gamma: must be a number", "'high'"]),
        ({"gamma": "1"}, ["gamma: must be a number", "'1'"]),
        ({"gamma": float("nan")}, ["gamma: must be finite", "nan"]),
        ({"gamma": float("inf")}, ["gamma: must be finite", "inf"]),
        ({"stages": [1, float("inf")]}, ["stages: must be finite"]),
        ({"stages": 3}, ["stages: must be a list", "3"]),
        ({"gamma": "none"}, ["gamma: must be a number"]),
    ],
)
def test_a_value_that_a_setting_cannot_have_is_refused_in_one_line(changes, words):
    infos = model_info("resnet_m", 10, 64), model_info("vit_xs", 10, 64)
    with pytest.raises(UsageError) as error:
        resolve_config(get_method("ofa"), None, *infos, "fashion_demo", changes)
    assert all(word in str(error.value) for word in words) and len(str(error.value).splitlines()) == 1


def test_none_stands_for_none_where_a_setting_may_be_absent():
    @register("mine_optional", title="x", paper="x", url="")
    class Mine(Method):
        @dataclass(frozen=True)
        class Config:
            width: int | None = 3

    infos = model_info("resnet_m", 10, 64), model_info("vit_xs", 10, 64)
    assert resolve_config(Mine, None, *infos, "fashion_demo", {"width": "none"}).width is None
