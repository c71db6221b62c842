"""Answers that outlive a command: kept by question and code, and computed where they cannot be kept."""

import pytest

from cakdbench.engine import kept as module
from cakdbench.engine.kept import kept
from cakdbench.engine.memory import known_peak
from cakdbench.utils.places import cache_path
from tests.engine.test_memory import works


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path


def test_an_answer_is_computed_once_a_question_and_code(monkeypatch):
    asked = []

    def ask(*question):
        return kept("peaks", question, lambda: asked.append(question) or {"total": len(asked)})

    assert [ask("a", 1), ask("a", 1), ask("a", 2), ask("a", None)] == [{"total": n} for n in (1, 1, 2, 3)]
    monkeypatch.setattr(module, "code_sha256", lambda: "another")
    assert ask("a", 1) == {"total": 4}


def test_that_there_is_no_answer_is_kept_too():
    assert kept("peaks", "?", lambda: None) is None
    assert kept("peaks", "?", lambda: pytest.fail("asked again")) is None


def test_a_damaged_answer_is_computed_again():
    assert kept("peaks", "?", lambda: 1) == 1
    next(cache_path("peaks").iterdir()).write_text("[")
    assert kept("peaks", "?", lambda: 2) == 2 and kept("peaks", "?", lambda: 3) == 2


def test_where_nothing_can_be_kept_it_is_computed(place):
    (place / "cakdbench").write_text("a file in the place of the folder")
    assert kept("peaks", "?", lambda: 1) == 1 and kept("peaks", "?", lambda: 2) == 2


def test_a_peak_is_predicted_once_for_all_commands(monkeypatch):
    work = works()["kd"]
    monkeypatch.setattr("cakdbench.engine.memory._peaks", {})
    first = known_peak(work)
    monkeypatch.setattr("cakdbench.engine.memory._peaks", {})
    monkeypatch.setattr("cakdbench.engine.memory.predict_peak", lambda work: pytest.fail("predicted again"))
    assert known_peak(work) == first and first.total > 0
