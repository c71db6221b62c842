"""Bundles that were tampered with: every kind is refused, with the reason."""

import hashlib
import io
import json
import re

import numpy as np
import pytest

from cakdbench.data.datasets import load_dataset
from cakdbench.recipes import load_recipe
from cakdbench.submissions.submit import npy_bytes

STEP = 100 / 2000
"""One test image, in percent."""


def put(path, value):
    """An edit that sets one value of a record; `path` as in `result.top1` or `history.0.lr`."""

    def change(record):
        *tables, name = path.split(".")
        for table in tables:
            record = record[int(table)] if isinstance(record, list) else record[table]
        record[name] = value(record[name]) if callable(value) else value

    return lambda forgery: forgery.edit(change)


def also(*edits):
    return lambda forgery: [edit(forgery) for edit in edits] and None


def drop(table, name):
    return put(table, lambda old: {key: value for key, value in old.items() if key != name})


def truth():
    return load_dataset("fashion_demo").test.labels


def raise_accuracy(forgery):
    def change(record):
        record["result"]["top1"] += 20 * STEP
        record["history"][-1]["top1"] = record["result"]["optimistic_top1"] = record["result"]["top1"]

    forgery.edit(change)


def best_as_last(forgery):
    def change(record):
        record["history"][0]["top1"], record["history"][1]["top1"] = (line["top1"] for line in record["history"][::-1])
        record["result"]["optimistic_epoch"] = 0

    forgery.edit(change)


def patch(old, new):
    return lambda forgery: forgery.text(lambda text: text.replace(old, new, 1))


def swap(hashed):
    def forge(forgery):
        forgery.predict(forgery.path("scratch").with_suffix(".npy").read_bytes(), hashed=hashed)

    return forge


def predict(make, hashed=True):
    return lambda forgery: forgery.predict(make(), hashed=hashed)


def object_array():
    buffer = io.BytesIO()
    np.save(buffer, np.array([{"class": 1}] * 2000, dtype=object), allow_pickle=True)
    return buffer.getvalue()


def of_type(kind, shape=(2000,)):
    buffer = io.BytesIO()
    np.save(buffer, np.zeros(shape, kind))
    return buffer.getvalue()


def whole_run_of_another(forgery):
    """The scratch run submitted as CC's, predictions, history and all."""
    other = json.loads(forgery.path("scratch").read_text())["record"]
    content = forgery.path("scratch").with_suffix(".npy").read_bytes()
    names = ("result", "history", "weights_sha256", "predictions_sha256")
    forgery.predict(content, hashed=False)
    forgery.edit(lambda record: record.update({name: other[name] for name in names}))


def second_run_of_the_seed(forgery):
    def change(record):
        record["identity"]["method"].update(version=None, source="a" * 64)
        record["weights_sha256"] = "b" * 64

    forgery.edit(change, copy=True)


def another_seed(forgery):
    def change(record):
        record["identity"]["seed"] = 1

    forgery.edit(change, copy=True)


def standard_recipe(forgery):
    numbers = load_recipe("demo").identity()
    put("identity.recipe", numbers)(forgery)


def teacher_for_scratch(forgery):
    taught = json.loads(forgery.path("cc").read_text())["record"]

    def change(record):
        record["teacher"], record["identity"]["teacher"] = taught["teacher"], taught["identity"]["teacher"]

    forgery.edit(change, "scratch")


def no_teacher(forgery):
    also(put("identity.teacher", None), put("teacher", None))(forgery)


def of_another_name(forgery):
    entry = forgery.path()
    for path in (entry, entry.with_suffix(".npy")):
        path.rename(path.with_name(path.name.replace("s0-", "s1-")))


def in_another_folder(forgery):
    (forgery.root / "cc").rename(forgery.root / "ofa")


def without_rekeying(forgery):
    forgery.text(lambda text: text.replace('"weight_decay": 0.05', '"weight_decay": 0.01'))


NOISE = {"kind": "gaussian_noise", "strength": 0.38, "severity": 5, "top1": 20.0, "top5": 60.0, "ema_top1": None}


def noisy(asked=("gaussian_noise=0.38",), **changes):
    """A run whose recipe asks for corruptions, and which was tested under one."""
    numbers = put("identity.recipe.evaluation.corruptions", list(asked))
    return also(numbers, put("result.corruptions", [NOISE | changes]))


NOT_ITS_OWN = r"its key is .* and its identity's is"
FORGERIES = {
    "edited accuracy": (put("result.top1", lambda old: old + 20 * STEP), "its predictions reach"),
    "edited accuracy everywhere": (raise_accuracy, "its predictions reach .* its record says"),
    "accuracy of no number of images": (put("result.top5", 97.77777), "no whole number of 2000 images"),
    "accuracy above 100": (put("result.top5", 105.0), "no percentage"),
    "negative accuracy": (put("history.0.top1", -5.0), "no percentage"),
    "top-5 below top-1": (put("result.top5", 5.0), "top-5 is below its top-1"),
    "best epoch as last": (best_as_last, "not the last epoch's, .* but the best epoch's, chosen on the test set"),
    "false best epoch": (put("result.optimistic_epoch", 0), "its best epoch is 1"),
    "false best accuracy": (put("result.optimistic_top1", lambda old: old + STEP), "its best epoch is 1"),
    "swapped predictions": (swap(hashed=False), "not those of the record: their hash is another"),
    "swapped predictions, new hash": (swap(hashed=True), "copied run: it has the predictions of"),
    "perfect predictions": (predict(truth), "its predictions reach 100.0000 %"),
    "too few predictions": (predict(lambda: truth()[:-1]), "1999 predictions for 2000 test images"),
    "too many predictions": (predict(lambda: np.append(truth(), 0)), "2001 predictions for 2000 test images"),
    "no predictions": (predict(lambda: np.zeros(0)), "0 predictions for 2000"),
    "class out of range": (predict(lambda: np.full(2000, 10)), "predicts class 10 of 10"),
    "pickled predictions": (predict(object_array), "no NumPy file of a row of uint16"),
    "predictions of another type": (predict(lambda: of_type("int64")), "no NumPy file of a row of uint16"),
    "predictions of another shape": (predict(lambda: of_type("<u2", (2000, 1))), "no NumPy file of a row of uint16"),
    "big-endian predictions": (predict(lambda: of_type(">u2")), "no NumPy file of a row of uint16"),
    "truncated predictions": (predict(lambda: of_type("<u2")[:-7]), "says it holds 2000 classes"),
    "predictions with a tail": (predict(lambda: of_type("<u2") + b"xx"), "says it holds 2000 classes"),
    "another run's results": (whole_run_of_another, "copied run: it has the weights of"),
    "copied run as another seed": (another_seed, "copied run: it has the weights"),
    "duplicated seed": (second_run_of_the_seed, "duplicate seed: .* with seed 0"),
    "negative seed": (put("identity.seed", -1), "the seed -1 is out of range"),
    "other teacher": (put("identity.teacher.sha256", "0" * 64), "other teacher: its weights 0000000000000000 of vit_m"),
    "other teacher's model": (put("identity.teacher.model", "swin_m"), "other teacher: its weights are those of vit_m"),
    "teacher expected elsewhere": (put("teacher.expected", 60.8), "expects 60.8 % of its teacher"),
    "top-5 of the teacher below top-1": (put("teacher.measured_top5", 5.0), "its teacher's top-5 is below its top-1"),
    "network between images": (put("result.networks", {"assistant": 70.01}), "result.networks.assistant = 70.01"),
    "corruption nobody asked for": (put("result.corruptions", [NOISE]), "=0.38; its recipe asks for none"),
    "corruption left out": (noisy(["gaussian_noise=0.38", "shot_noise=3"]), "asks for .*0.38, shot_noise=3"),
    "no corruption": (put("identity.recipe.evaluation.corruptions", ["shot_noise=3"]), "tested under no corruption"),
    "corruption in another spelling": (noisy(["gaussian_noise:5"]), "writes them in another way"),
    "unknown corruption": (noisy(kind="fog"), "no corruption is fog of strength 0.38"),
    "another severity": (noisy(severity=1), "no corruption is gaussian_noise of strength 0.38, severity 1"),
    "noise between images": (noisy(top1=20.01), "gaussian_noise=0.38: top1 = 20.010000 % is no whole number"),
    "noise without its top-5": (noisy(top5=10.0), "its top-5 under gaussian_noise=0.38 is below its top-1"),
    "EMA under noise from nowhere": (noisy(ema_top1=20.0), "EMA accuracy under gaussian_noise=0.38 does not go"),
    "weak teacher": (put("teacher.measured", 20.0), "its teacher is off expected, and the record says the contrary"),
    "needless mismatch": (put("teacher.mismatch_allowed", True), "its teacher is as expected"),
    "teacher of another source": (
        also(put("teacher.standard", True), put("teacher.source", "my_weights.pth")),
        "other teacher: my_weights.pth, .* is not the registry's, trained by demo_teacher",
    ),
    "teacher's input changed": (
        also(put("teacher.standard", True), put("identity.teacher.statistics", [[0.5] * 3, [0.5] * 3])),
        "other input statistics",
    ),
    "taught without a teacher": (no_teacher, "cc has no teacher"),
    "scratch with a teacher": (teacher_for_scratch, "scratch has a teacher and needs none"),
    "teacher half there": (put("teacher", None), "do not agree on whether it had a teacher"),
    "other recipe, old key": (without_rekeying, NOT_ITS_OWN),
    "other learning rate": (put("identity.recipe.optimizer.lr", 0.1), "its learning rate .* is not its recipe's"),
    "other warm-up": (drop("identity.recipe.schedule", "warmup_epochs"), "its learning rate .* is not its recipe's"),
    "passed off as the standard recipe": (standard_recipe, "its history has 2 epochs"),
    "unknown recipe": (put("recipe_name", "my_recipe"), "the recipe my_recipe is unknown"),
    "recipe with a new number": (put("identity.recipe.tricks", 1), "invalid recipe: .*tricks"),
    "recipe without a number": (drop("identity.recipe", "epochs"), "invalid recipe: .*epochs: missing"),
    "a neutral number told": (put("identity.recipe.drop_path", 0.0), "leaves numbers out or writes them"),
    "recipe out of all bounds": (put("identity.recipe.image_size", 65536), "at 65536 px"),
    "endless recipe": (put("identity.recipe.epochs", 10**9), "trains 1000000000 epochs"),
    "epoch left out": (put("history", lambda old: old[1:]), "its history has 1 epochs"),
    "epoch told twice": (put("history.1.epoch", 0), "numbered otherwise than 0 to 1"),
    "no history": (put("history", []), "has no history"),
    "epoch not evaluated": (put("history.0.top1", None), "epoch 0 is not evaluated"),
    "EMA from nowhere": (put("history.1.ema_top1", 90.0), "EMA accuracy"),
    "EMA result from nowhere": (put("result.ema_top1", 90.0), "its EMA accuracy is not the last epoch's"),
    "learning rates edited": (put("history.1.lr", 0.1), "epoch 1: its learning rate 0.1"),
    "no losses": (put("history.1.losses", {}), "losses are missing"),
    "training accuracy made up": (put("history.1.train_top1", 51.23456), "no whole number of 5000 images"),
    "other source": (
        put("identity.method", lambda old: old | {"version": None, "source": "c" * 64}),
        "it has no version of cc, which now is 1",
    ),
    "no source": (put("method_source", ""), "invalid method_source: it is no sha256"),
    "other name": (put("label", "cc:secret"), "its settings are named cc:secret, their name is cc"),
    "endless name": (put("label", "cc[weight=" + "[" * 500 + "]"), "characters that are not allowed, or is too long"),
    "other version": (put("identity.method.version", 9), "no version of cc, which now is 1"),
    "a number as another type": (put("identity.method.config.weight", 1), "written in another way"),
    "setting left out": (drop("identity.method.config", "gamma"), "settings are incomplete"),
    "unknown setting": (put("identity.method.config.bonus", 1), "unknown setting"),
    "setting out of all bounds": (put("identity.method.config.dim", 10**12), "dim: above|a number is above 65,536"),
    "student's size": (put("student_parameters", 1000), "student_parameters is 1,000; built anew it is"),
    "method's size": (put("extra_parameters", 0), "extra_parameters is 0; built anew it is 20,736"),
    "other student": (put("identity.student", "mixer_xs"), "student_parameters is .*; built anew"),
    "unknown student": (put("identity.student", "timm:../../passwd"), "the model timm:../../passwd cannot be built"),
    "unknown dataset": (put("identity.dataset.name", "mnist"), "the dataset mnist is unknown"),
    "other data": (put("identity.dataset.fingerprint", "d" * 64), "evaluated on other data than fashion_demo"),
    "other engine": (put("identity.engine_version", 99), "computed by version 99 of the engine"),
    "another file name": (of_another_name, "its folder and name are not those of its method and key"),
    "another folder": (in_another_folder, "its folder and name are not those of its method and key"),
    "finished in the future": (put("conditions.finished", "2199-01-01T00:00:00+00:00"), "finished in the future"),
    "finished somewhere": (put("conditions.finished", "2026-01-01T00:00:00"), "not in UTC"),
    "finished sometime": (put("conditions.finished", "yesterday"), "no time in ISO 8601"),
    "impossible speed": (put("conditions.images_per_second", 1e9), "does not go with"),
    "impossible duration": (put("conditions.seconds", 0.001), "does not go with"),
    "negative duration": (put("conditions.seconds", -1.0), "not positive"),
    "negative energy": (put("conditions.energy_wh", -1.0), "its energy is negative"),
    "no process": (put("conditions.processes", 0), "less than one process"),
    "not in its lanes": (put("conditions.lanes", ["scratch"]), "cc is not among the lanes"),
    "versions withheld": (put("conditions.versions", {"python": "3.11"}), "version it ran with of cakdbench, torch"),
    "a script in the device": (put("conditions.device", "<script>alert(1)</script>"), "conditions.device holds"),
    "a table in the version": (put("conditions.versions.torch", "2 | 99.9"), "versions.torch holds characters"),
    "a status of its own": (patch('"format"', '"status": "re-run", "format"'), "status: Extra inputs"),
    "another format": (patch('"format": 1', '"format": 2'), "format: Input should be 1"),
    "code over http": (patch('"code": null', '"code": "http://example.org"'), "code: String should match"),
    "script as code": (patch('"code": null', '"code": "javascript:alert(1)"'), "code: String should match"),
    "a page as submitter": (patch("A. Student", "<b>A. Student</b>"), "submitted_by: String should match"),
    "seed as text": (patch('"seed": 0', '"seed": "0"'), "record.identity.seed: Input should be a valid int"),
    "hidden field": (patch('"top5"', '"top2": 1, "top5"'), "record.result.top2: Extra inputs"),
    "fingerprint that climbs": (
        put("identity.dataset.fingerprint", "/../../../../../etc/passwd"),
        "no proper name and fingerprint",
    ),
    "endless dataset name": (put("identity.dataset.name", "timm:" + "a" * 150), "no proper name and fingerprint"),
    "endless teacher": (put("identity.teacher.model", "a" * 1900), "teacher.model holds .* too long"),
}  # fmt: skip


def test_the_bundle_is_accepted_as_it_was_recorded(forgery):
    report = forgery.validate()
    assert report.refused == ()
    assert sorted(line.file.partition("/")[0] for line in report.lines) == ["cc", "scratch", "scratch"]
    assert all(line.rescored and line.status == "claimed" for line in report.lines)
    told = [str(finding) for finding in report.findings]
    assert any("changed settings: recipe.epochs = 2 (standard 6)" in text for text in told)
    assert any("its teacher is not the registry's" in text for text in told)


def test_forging_tools_alone_change_nothing(forgery):
    forgery.edit(lambda record: None)
    assert forgery.refusals() == []


def test_accuracies_under_noise_are_taken_as_told_and_the_run_is_set_aside(forgery):
    noisy()(forgery)
    report = forgery.validate()
    told = [finding.problem.what for finding in report.findings if "cc/cc-" in finding.file]
    assert report.refused == () and any("are its own word" in text for text in told)
    assert any('changed settings: recipe.evaluation.corruptions = ["gaussian_noise=0.38"]' in text for text in told)


@pytest.mark.parametrize("kind", FORGERIES)
def test_forgery_is_refused_with_its_reason(forgery, kind):
    forge, reason = FORGERIES[kind]
    forge(forgery)
    told = forgery.refusals()
    assert any(re.search(reason, text) for text in told), told
    assert all(text.count("; ") for text in told), "every refusal says a hint what to do"


def test_kinds_are_many():
    assert len(FORGERIES) >= 60


def test_other_labels_in_the_pull_request_change_nothing(forgery):
    """Predictions scored by a file of labels made to fit: the dataset at hand has the last word."""
    file = next(forgery.labels.glob("*.npy"))
    file.write_bytes(npy_bytes(np.zeros(2000)))
    assert any("are not the test labels of the dataset" in text for text in forgery.refusals())
    forgery.predict(np.zeros(2000))
    assert any("its predictions reach" in text for text in forgery.refusals())


def test_hash_of_the_forged_predictions_is_the_files(forgery):
    forgery.predict(truth())
    stated = json.loads(forgery.path().read_text())["record"]["predictions_sha256"]
    assert stated == hashlib.sha256(forgery.path().with_suffix(".npy").read_bytes()).hexdigest()
