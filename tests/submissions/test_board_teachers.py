"""The teachers of the demo board lie in the repository, so that anyone's runs can stand beside its results."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch

from cakdbench.engine.options import run_options
from cakdbench.engine.session import Session
from cakdbench.models.weights import state_sha256
from cakdbench.store import Store

BOARDS = Path(__file__).parents[2] / "leaderboards"
TEACHERS = list(Store(BOARDS / "teachers").runs())


@pytest.mark.parametrize("run", TEACHERS, ids=lambda run: run.key)
def test_the_weights_are_those_of_the_record(run):
    record = run.record()
    assert state_sha256(safetensors.torch.load_file(run.student)) == record.weights_sha256
    labels = np.load(next((BOARDS / "labels").glob(f"{record.identity.dataset.name}-*.npy")))
    assert 100 * np.mean(np.load(run.predictions) == labels) == pytest.approx(record.result.top1, abs=1e-9)


def test_they_taught_every_student_of_the_board():
    entries = [json.loads(path.read_text())["record"]["identity"] for path in BOARDS.glob("results/*/*.json")]
    named = {identity["teacher"]["sha256"] for identity in entries if identity.get("teacher")}
    assert named == {run.record().weights_sha256 for run in TEACHERS}


def test_a_store_with_a_copy_of_them_has_no_teacher_to_train(tmp_path):
    store = shutil.copytree(BOARDS / "teachers", tmp_path / "runs")
    session = Session(run_options("kd", pairs="demo", store=store))
    assert session.preview.trainings == [] and session.preview.obstacles == []
    submitted = {path.stem for path in BOARDS.glob("results/*/*.json")}
    assert {task.key for task in session.harness.tasks(session.plan.cells)} <= submitted
