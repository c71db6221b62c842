"""Records with chosen truths, for the tests of the boards."""

import hashlib
import json

from cakdbench.published.ledger import Printed
from cakdbench.records import Record, TeacherIdentity
from cakdbench.reports.standard import Column
from cakdbench.utils.diff import changes

RECIPE = {"image_size": 64, "epochs": 8, "global_batch": 128, "local_batch": 128, "optimizer": {"lr": 0.1}}
CONFIGS = {
    "scratch": {},
    "kd": {"temperature": 1.0, "weight": 1.0},
    "ofa": {"gamma": 1.0, "stages": [1, 2, 3, 4]},
    "fbt": {"gamma": 1.0, "infonce": True},
    "fbt:no_infonce": {"gamma": 1.0, "infonce": False},
}
KINDS = {"scratch": "labels", "kd": "logits", "ofa": "logits", "fbt": "fused"}


def sha(*parts):
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def column(pair="cnn_mini>vit_mini@demo", recipe="demo", numbers=None, test_images=2000):
    models, dataset = pair.split("@")
    teacher, student = models.split(">")
    return Column(teacher, student, dataset, recipe, numbers or RECIPE, test_images)


def record(
    label="kd",
    pair="cnn_mini>vit_mini@demo",
    seed=0,
    top1=80.0,
    *,
    recipe=None,
    recipe_name="demo",
    config=None,
    precision="fp32",
    fingerprint="f" * 64,
    source="a",
    teacher_file="teacher",
    engine_version=1,
    mismatch=False,
    optimistic=None,
    ema=None,
    finished="2025-11-21T04:00:00+00:00",
    **conditions,
):
    """A record as the harness would write it; scratch gets no teacher."""
    models, dataset = pair.split("@")
    teacher, student = models.split(">")
    id = label.partition(":")[0]
    taught = id != "scratch"
    identity = {
        "engine_version": engine_version,
        "method": {
            "id": id,
            "config": CONFIGS[label] if config is None else config,
            "source": sha(id, source),
        },
        "student": student,
        "teacher": {"model": teacher, "sha256": sha(teacher, teacher_file)} if taught else None,
        "dataset": {"name": dataset, "fingerprint": fingerprint},
        "recipe": recipe or RECIPE,
        "precision": precision,
        "seed": seed,
    }
    facts = {"measured": 90.0, "expected": 90.0, "tolerance": 0.1, "source": "trained: demo_teacher"}
    return Record.model_validate(
        {
            "key": f"{id}-{sha(identity)[:16]}",
            "identity": identity,
            "label": label,
            "method_source": sha(id, source),
            "recipe_name": recipe_name,
            "teacher": facts | {"mismatch_allowed": mismatch} if taught else None,
            "student_parameters": 1_000_000,
            "extra_parameters": {"ofa": 20_000, "fbt": 5_000}.get(id, 0),
            "result": {
                "top1": top1,
                "top5": 99.0,
                "ema_top1": ema,
                "optimistic_top1": top1 + 0.5 if optimistic is None else optimistic,
                "optimistic_epoch": 6,
            },
            "history": [{"epoch": 0, "lr": 0.1, "losses": {"label": 1.0}, "train_top1": 50.0, "top1": top1}],
            "predictions_sha256": sha("predictions", identity),
            "weights_sha256": sha("weights", identity),
            "conditions": {
                "device": "CPU (x86_64)",
                "processes": 1,
                "threads": 2,
                "versions": {"torch": "2.9", "timm": "1.0.31"},
                "lanes": ["scratch", "kd"],
                "seconds": 60.0,
                "images_per_second": 700.0,
                "finished": finished,
            }
            | conditions,
        }
    )


def printed(value, method="kd", source="tas", pair="swin_t>resnet18@cifar100", **changes):
    """A printed accuracy."""
    models, dataset = pair.split("@")
    teacher, student = models.split(">")
    values = {
        "source": source, "table": "Table 1", "dataset": dataset, "protocol": "ofa", "mode": "", "panel": "",
        "teacher": teacher, "student": student, "method": method, "printed_as": method.upper(), "metric": "top1",
        "value": value, "note": "",
    }  # fmt: skip
    return Printed.model_construct(**(values | changes))


class TestRules:
    """Rules that know `CONFIGS`, and refuse `fbt` on students whose name starts with mlp.

    Args:
        printed: pair to method to printed values.
    """

    __test__ = False

    def __init__(self, printed=None):
        self._printed = printed or {}

    def printed(self, column, metric="top1"):
        cells = self._printed.get(column.pair, {})
        return {method: rows for method, all in cells.items() if (rows := tuple(p for p in all if p.metric == metric))}

    def kind(self, label):
        return KINDS.get(label.partition(":")[0]) if label in CONFIGS else None

    def differences(self, record, column):
        method = record.identity.method
        return [
            *changes(record.identity.recipe, column.numbers, "recipe"),
            *changes(method.config, CONFIGS[record.label], method.id),
        ]

    def label(self, record, column):
        return record.label

    def refusal(self, label, column):
        refused = label.startswith("fbt") and column.student.startswith("mlp")
        return "fbt needs four stages of four sizes" if refused else None

    def title(self, label):
        id, _, variant = label.partition(":")
        return {"fbt": "FBT", "kd": "KD", "ofa": "OFA"}.get(id, id) + (f": {variant}" if variant else "")


def taught_by(cell) -> TeacherIdentity | None:
    """The teacher's part of a planned cell's identity, with made-up weights."""
    return TeacherIdentity(model=cell.pair.teacher, sha256="a" * 64) if cell.needs_teacher else None
