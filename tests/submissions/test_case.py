"""What the receiving side takes for known of an entry."""

from datetime import UTC, datetime

import numpy as np

from cakdbench.submissions.bundle import EntryFile
from cakdbench.submissions.checks.case import Case
from cakdbench.submissions.entry import Entry
from cakdbench.submissions.truth import Truth
from tests.reports.synthetic import record


def test_images_that_were_left_out_may_lack_a_prediction(tmp_path):
    whole = record("kd", "swin_t>resnet18@cifar100")
    dataset = whole.identity.dataset.model_copy(update={"skipped": 3})
    part = whole.model_copy(update={"identity": whole.identity.model_copy(update={"dataset": dataset})})
    for run, tested, count in ((whole, 9998, 10_000), (part, 9998, 9998), (part, 9000, 9997), (part, 10_001, 10_000)):
        entry = Entry(record=run, submitted_by="A Stranger")
        file = EntryFile("kd/x.json", entry, "", np.zeros(tested, np.uint16), run.predictions_sha256)
        case = Case(file, Truth(tmp_path), datetime(2026, 1, 1, tzinfo=UTC), accepted=False)
        assert case.test_images == count
