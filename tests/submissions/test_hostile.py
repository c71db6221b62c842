"""Files made to harm the reader: each is refused by name, nothing outside is read, nothing is executed."""

import hashlib
import json
import os
import pickle
import re
import tracemalloc

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from cakdbench.submissions.bundle import read_bundle
from cakdbench.submissions.entry import Entry
from cakdbench.submissions.evidence import load_labels, load_predictions, read_results
from cakdbench.submissions.findings import Refused
from cakdbench.submissions.reading import JSON_BYTES, parse_classes, parse_json, read_file, read_model
from cakdbench.submissions.submit import npy_bytes
from cakdbench.utils.errors import StoreError

MOST_MEMORY = 64 * 2**20


def replaced(make):
    """The CC entry's file, made anew by `make(path)`."""

    def forge(forgery):
        path = forgery.path()
        path.unlink()
        make(path)

    return forge


def written(content):
    return replaced(lambda path: path.write_bytes(content))


def patched(old, new):
    return lambda forgery: forgery.text(lambda text: text.replace(old, new, 1))


def sparse(path):
    with open(path, "wb") as file:
        file.truncate(2**33)


def link_to(target):
    return replaced(lambda path: path.symlink_to(target))


def beside(name, make):
    """Another file in the method's folder."""
    return lambda forgery: make(forgery.path().with_name(name))


def linked_predictions(forgery):
    path = forgery.path().with_suffix(".npy")
    path.rename(forgery.root.parent / "elsewhere.npy")
    path.symlink_to(forgery.root.parent / "elsewhere.npy")


def linked_folder(forgery):
    (forgery.root / "cc").rename(forgery.root.parent / "elsewhere")
    (forgery.root / "cc").symlink_to(forgery.root.parent / "elsewhere", target_is_directory=True)


def hard_link(forgery):
    os.link(forgery.path(), forgery.root.parent / "another name")


def nested(path):
    path.mkdir()
    (path / "entry.json").write_text("{}")


def touch(path):
    path.write_bytes(b"print('run me')")


class Bomb:
    def __reduce__(self):
        return os.system, ("touch cakdbench-was-here",)


HOSTILE = {
    "sparse": (replaced(sparse), "larger than 1,048,576 bytes"),
    "huge": (written(b" " * (JSON_BYTES + 1)), "larger than 1,048,576 bytes"),
    "empty": (written(b""), "is no JSON"),
    "truncated": (lambda f: f.text(lambda text: text[: len(text) // 2]), "is no JSON"),
    "deep lists": (written(b"[" * 10**6), "nested deeper than 12 levels"),
    "deep objects": (written(b'{"a":' * 10**5), "nested deeper than 12 levels"),
    "deep and closed": (written(b"[" * 13 + b"]" * 13), "nested deeper than 12 levels"),
    "not UTF-8": (written(b'{"format": "\xff\xfe"}'), "is not UTF-8"),
    "UTF-16": (written('{"format": 1}'.encode("utf-16")), "is not UTF-8"),
    "byte-order mark": (written(b"\xef\xbb\xbf{}"), "is no JSON"),
    "duplicate keys": (patched('"seconds"', '"seconds": 1, "seconds"'), "a key twice"),
    "NaN": (patched('"ema_top1": null', '"ema_top1": NaN'), "holds NaN"),
    "infinity": (patched('"ema_top1": null', '"ema_top1": -Infinity'), "holds -Infinity"),
    "beyond floats": (patched('"ema_top1": null', '"ema_top1": 1e999'), "beyond all bounds"),
    "an exponent below all bounds": (patched('"ema_top1": null', '"ema_top1": 1e-' + "9" * 30), "in another way"),
    "a submitter of spaces": (patched("A. Student", "   "), "does not say who submits it"),
    "endless number": (patched('"ema_top1": null', '"ema_top1": ' + "9" * 5000), "whole number of more than 18 digits"),
    "lone surrogate": (patched("A. Student", "\\ud800"), "unprintable"),
    "terminal codes": (patched("A. Student", "\\u001b[2J"), "unprintable"),
    "endless text": (patched("A. Student", "A" * 10_000), "longer than 2000"),
    "a list": (written(b"[]"), "does not fit the schema"),
    "a pickle": (written(pickle.dumps(Bomb())), "is not UTF-8"),
    "link to a file outside": (link_to("/etc/passwd"), "is a link"),
    "link to nowhere": (link_to("/nowhere"), "is a link"),
    "link to itself": (replaced(lambda path: path.symlink_to(path)), "is a link"),
    "linked predictions": (linked_predictions, "is a link"),
    "linked folder": (linked_folder, "cc: is a link"),
    "hard link": (hard_link, "is a hard link"),
    "pipe": (replaced(os.mkfifo), "is no regular file"),
    "folder as entry": (replaced(nested), "is a folder inside of a method's folder"),
    "no predictions": (lambda f: f.path().with_suffix(".npy").unlink(), "has no predictions"),
    "no entry": (lambda f: f.path().unlink(), "are predictions without an entry"),
    "huge predictions": (lambda f: sparse(f.path().with_suffix(".npy")), "predictions .* larger than"),
    "predictions that run code": (lambda f: f.predict(pickle.dumps(Bomb()), hashed=False), "no NumPy file"),
    "a script": (beside("evil.py", touch), "evil.py: does not belong here"),
    "a hidden file": (beside(".bashrc", touch), "has a name that is not allowed"),
    "a name with spaces": (beside("a b.json", touch), "has a name that is not allowed"),
    "a name with terminal codes": (beside("\x1b[2J.json", touch), "has a name that is not allowed"),
    "a name that climbs": (beside("..\\..\\x.json", touch), "has a name that is not allowed"),
    "a file beside the folders": (lambda f: touch(f.root / "setup.py"), "setup.py: does not belong here"),
    "a strange status": (lambda f: (f.root / "status.toml").write_text("[[entries]]\nkey = 1"), "is malformed"),
    "a deep status": (lambda f: (f.root / "status.toml").write_text("a=" + "[" * 10**5), "is malformed"),
    "a linked status": (lambda f: (f.root / "status.toml").symlink_to("/etc/passwd"), "is a link"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_file_is_refused_by_name(forgery, kind):
    forge, reason = HOSTILE[kind]
    forge(forgery)
    told = forgery.refusals()
    assert any(re.search(reason, text) for text in told), told
    assert all(text.isprintable() and "root:" not in text for text in told)
    assert not os.path.exists("cakdbench-was-here")


def test_capital_letters_do_not_make_two_files(forgery):
    path = forgery.path()
    path.with_name(path.name.upper()[:-5] + ".json").write_bytes(path.read_bytes())
    assert any("in capital letters only" in text for text in forgery.refusals())


def test_too_many_files_are_not_read(forgery, monkeypatch):
    monkeypatch.setattr("cakdbench.submissions.reading.FILES", 5)
    with pytest.raises(Refused, match="holds more than 5 files"):
        forgery.validate()


@pytest.mark.parametrize("content", [b"[" * JSON_BYTES, b'{"a":' * 200_000, b"[0," * 300_000, b'"' + b"a" * JSON_BYTES])
def test_memory_stays_bounded(tmp_path, content):
    path = tmp_path / "entry.json"
    path.write_bytes(content[:JSON_BYTES])
    tracemalloc.start()
    try:
        with pytest.raises(Refused):
            parse_json(read_file(path, JSON_BYTES))
        assert tracemalloc.get_traced_memory()[1] < MOST_MEMORY
    finally:
        tracemalloc.stop()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)


@given(st.binary(max_size=300) | json_values.map(lambda value: json.dumps(value).encode()))
@example(b"[" * 100_000)
@example(b'{"a": 1, "a": 2}')
@example(b"-" + b"0" * 5000)
@settings(max_examples=150, deadline=None)
def test_reader_of_json_only_ever_refuses(content):
    try:
        value = parse_json(content)
    except Refused:
        return
    assert json.loads(content) == value


@given(st.binary(max_size=300), st.integers(0, 400), st.integers(0, 127), st.binary(max_size=3))
@settings(max_examples=150, deadline=None)
def test_reader_of_predictions_only_ever_refuses(tail, cut, place, patch):
    whole = npy_bytes(np.arange(100))
    for content in (tail, whole[:cut] + tail, whole[:place] + patch + whole[place + len(patch) :]):
        try:
            found = parse_classes(content)
        except Refused:
            continue
        assert found.dtype == np.uint16 and found.ndim == 1 and 2 * len(found) <= len(content)


def nodes(value, path=()):
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from nodes(inner, (*path, key))


@pytest.fixture(scope="module")
def entry_text(genuine):
    return next((genuine / "cc").glob("*.json")).read_bytes()


@given(data=st.data(), value=json_values)
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_entry_with_any_value_replaced_is_read_or_refused(entry_text, data, value):
    entry = json.loads(entry_text)
    *path, last = data.draw(st.sampled_from(list(nodes(entry))[1:]))
    holder = entry
    for key in path:
        holder = holder[key]
    holder[last] = value
    try:
        read = read_model(json.dumps(entry).encode(), Entry)
    except Refused:
        return
    assert json.loads(read.model_dump_json()) == json.loads(Entry(**entry).model_dump_json())


@given(place=st.integers(0, 5000), patch=st.binary(max_size=8), cut=st.integers(0, 8))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damaged_bytes_of_an_entry_are_read_or_refused(entry_text, place, patch, cut):
    content = entry_text[:place] + patch + entry_text[place + cut :]
    try:
        read_model(content, Entry)
    except Refused as error:
        assert str(error)


@given(data=st.data(), value=json_values)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_validation_of_any_edited_entry_ends_in_findings(make_forgery, tmp_path_factory, data, value):
    """The whole of `validate`, not only its reader; what is part of the key cannot change without being noticed."""
    forgery = make_forgery(tmp_path_factory.mktemp("fuzz") / "bundle")
    path = forgery.path()
    entry = json.loads(path.read_text())
    *tables, last = data.draw(st.sampled_from(list(nodes(entry))[1:]))
    holder = entry
    for key in tables:
        holder = holder[key]
    changed, holder[last] = holder[last] != value, value
    path.write_text(json.dumps(entry))
    refusals = forgery.refusals()
    assert refusals or not changed or tables[:2] != ["record", "identity"]


numbers = st.sampled_from(
    [0, 1, -1, 3, 10**6, 10**17, 0.0, 1e-300, 1e300, -0.5, 0.999, None, True, "", "x", [], {}, [1]]
)


@given(data=st.data(), value=numbers)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_number_with_the_right_key_ends_in_findings(make_forgery, tmp_path_factory, data, value):
    """As above, by somebody who computes the key anew."""
    forgery = make_forgery(tmp_path_factory.mktemp("fuzz") / "bundle")

    def change(record):
        *tables, last = data.draw(st.sampled_from(list(nodes(record))[1:]))
        for key in tables:
            record = record[key]
        record[last] = value

    try:
        forgery.edit(change)
    except (ValidationError, TypeError, AttributeError):  # no identity any more: there is no key to compute
        return
    assert not any("fails on it" in text for text in forgery.refusals())


@given(st.binary(max_size=200), st.sampled_from(["cc/x.json", "cc/x.npy", "status.toml", "external/x.json", "x"]))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_file_in_a_folder_is_read_or_refused(tmp_path_factory, content, name):
    root = tmp_path_factory.mktemp("results")
    (root / name).parent.mkdir(exist_ok=True)
    (root / name).write_bytes(content)
    bundle = read_bundle(root)
    assert not bundle.entries and all(str(finding).isprintable() for finding in bundle.findings)
    assert read_results(root).entries == []


@pytest.mark.parametrize("key", ["../../secret", "/etc/passwd", "*", ""])
def test_labels_are_looked_up_in_their_folder_only(forgery, key):
    (forgery.root.parent / "secret.npy").write_bytes(npy_bytes(np.zeros(5)))
    assert load_labels(forgery.labels, "timm:x", f"/../{key}") is None


def test_predictions_that_are_a_link_are_not_followed(forgery):
    secret = forgery.root.parent / "secret.npy"
    secret.write_bytes(npy_bytes(np.zeros(5)))
    link = forgery.path().with_name("link.npy")
    link.symlink_to(secret)
    with pytest.raises(StoreError, match="is a link"):
        load_predictions(link, hashlib.sha256(secret.read_bytes()).hexdigest())
