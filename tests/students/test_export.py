"""What a run gives away, loaded by plain timm and by onnxruntime."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from cakdbench.data.datasets import load_dataset
from cakdbench.models.catalog import create
from cakdbench.store import Store
from cakdbench.students import onnx
from cakdbench.students.card import model_card
from cakdbench.students.export import export_student
from cakdbench.students.student import load_student
from cakdbench.students.weights import read_weights
from cakdbench.utils.errors import CakdError, StoreError, UsageError
from cakdbench.utils.text import CONTROL
from tests.cli_lab import SHORT, Shell
from tests.students.lab import FACTS, NAMES, awake, finished_run


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "runs")


def images(size, count=2):
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize(
    ("student", "size"),
    [("vit_xs", 64), ("vit_m", 32), ("swin_xs", 64), ("resnet_s", 64), ("convnext_m", 64), ("swin_p", 224)]
    + [("resnet18", 32), ("timm:mobilenetv3_small_050", 64), ("timm:mixer_s32_224", 224)],
)
def test_plain_timm_loads_the_folder_and_gives_the_same_logits(store, tmp_path, student, size):
    run = finished_run(store, student, image_size=size)
    assert export_student(load_student(run), tmp_path / "out", license="mit") is None
    net = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).eval()
    with torch.no_grad():
        torch.testing.assert_close(net(images(size)), awake(student, size).net(images(size)))
    config = net.pretrained_cfg
    assert tuple(config["mean"]) == FACTS.mean and tuple(config["std"]) == FACTS.std
    assert tuple(config["input_size"]) == (3, size, size) and config["crop_pct"] == 1.0
    assert config["interpolation"] == "bilinear" and tuple(config["label_names"]) == NAMES and net.num_classes == 3
    assert not {"url", "hf_hub_id", "origin_url", "tag", "test_input_size"} & set(
        json.loads(_config(tmp_path))["pretrained_cfg"]
    )
    card = (tmp_path / "out/README.md").read_text()
    assert all(text in card for text in ("license: mit", "80.00 %", "resnet_m, 90.00 %", "demo, 6 epochs", "local-dir"))
    assert "top-5" not in card  # of three classes


@pytest.mark.parametrize("form", ["csv", "json", "table"])
def test_names_of_classes_steer_no_terminal(store, tmp_path, form):
    run = finished_run(store, image_size=32, facts=FACTS.model_copy(update={"class_names": ("\x1b[2J\x9b", "b", "c")}))
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
    words = "predict", run.key, str(tmp_path / "a.png"), "--format", form, "--store", str(store.root)
    code, output = Shell(tmp_path, tmp_path)(*words)
    assert code == 0 and "[2J" in output and not CONTROL.search(output)


@pytest.mark.parametrize("ema", [False, True])
def test_damaged_weights_are_not_used(store, ema):
    run = finished_run(store, image_size=64, ema=True)
    path = run.ema if ema else run.student
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    with pytest.raises(StoreError, match=f"damaged file .*{path.name}: not what the run wrote"):
        load_student(run, ema)


def test_the_card_counts_the_images_that_were_left_out(store):
    student = load_student(finished_run(store))
    record = student.record
    dataset = record.identity.dataset.model_copy(update={"skipped": 2})
    part = record.model_copy(update={"identity": record.identity.model_copy(update={"dataset": dataset})})
    assert "left out" not in model_card(student, "mit", True)
    assert "unreadable images left out: 2)" in model_card(replace(student, record=part), "mit", True)


def _config(tmp_path):
    return (tmp_path / "out/config.json").read_text()


@pytest.mark.parametrize("student", ["mixer_xs", "mobilenet_s", "resmlp_xs"])
def test_what_plain_timm_cannot_make_is_written_with_the_reason(store, tmp_path, student):
    run = finished_run(store, student)
    reason = export_student(load_student(run), tmp_path / "out")
    assert reason and student in reason and len(reason.splitlines()) == 1
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["README.md", "model.safetensors"]
    net = create(student, 3, 64).eval()  # as the card says
    assert f'create("{student}", num_classes=3, image_size=64)' in (tmp_path / "out/README.md").read_text()
    net.load_state_dict(load_file(tmp_path / "out/model.safetensors"))
    with torch.no_grad():
        torch.testing.assert_close(net(images(64)), awake(student, 64).net(images(64)))


@pytest.mark.parametrize("fault", ["structure", "registered"])
def test_a_changed_network_is_not_given_out_as_timms(store, tmp_path, fault):
    """A stem for small images under timm's name, and an architecture that somebody has registered with timm."""
    student = load_student(finished_run(store, "resnet_s"))
    if fault == "structure":
        student.model.net.maxpool = torch.nn.Identity()
    else:
        timm.models.register_model(_registered)
        student.model.net.pretrained_cfg = student.model.net.pretrained_cfg | {"architecture": "_registered"}
    reason = export_student(student, tmp_path / "out")
    assert ("other logits" if fault == "structure" else "none of timm's functions") in reason
    assert not (tmp_path / "out/config.json").exists() and (tmp_path / "out/model.safetensors").exists()


def _registered(pretrained=False, **options):
    return timm.create_model("resnet18", **options)


@pytest.mark.parametrize("student", ["vit_xs", "mixer_xs"])
def test_onnx_gives_the_logits_of_torch_for_any_batch(store, tmp_path, student):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    export_student(load_student(finished_run(store, student)), tmp_path / "out", onnx=True)
    session = onnxruntime.InferenceSession(str(tmp_path / "out/model.onnx"))
    for count in (1, 5):
        logits = session.run(["logits"], {"images": images(64, count).numpy()})[0]
        with torch.no_grad():
            expected = awake(student, 64).net(images(64, count)).numpy()
        np.testing.assert_allclose(logits, expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())


def test_a_wrong_onnx_file_is_not_left(store, tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    write = onnx._export
    monkeypatch.setattr(onnx, "_export", lambda net, x, path: write(torch.nn.Sequential(net, torch.nn.Tanh()), x, path))
    with pytest.raises(CakdError, match="onnxruntime gives other logits"):
        export_student(load_student(finished_run(store, "resnet_s")), tmp_path / "out", onnx=True)
    assert not (tmp_path / "out/model.onnx").exists()


def test_a_missing_extra_is_one_line_and_writes_nothing(store, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UsageError, match=r'--onnx needs onnxruntime: pip install "cakdbench\[onnx\]"'):
        export_student(load_student(finished_run(store, "resnet_s")), tmp_path / "out", onnx=True)
    assert not (tmp_path / "out").exists()


def test_a_folder_in_other_use_is_left_alone_and_an_earlier_export_is_replaced(store, tmp_path):
    student = load_student(finished_run(store, "resnet_s"))
    (tmp_path / "README.md").write_text("mine")
    with pytest.raises(UsageError, match="holds other files"):
        export_student(student, tmp_path)
    with pytest.raises(UsageError, match="cannot make the folder"):
        export_student(student, tmp_path / "README.md")
    assert (tmp_path / "README.md").read_text() == "mine"
    export_student(student, tmp_path / "out")
    (tmp_path / "out/model.onnx").write_bytes(b"of before")
    export_student(student, tmp_path / "out")
    assert not (tmp_path / "out/model.onnx").exists()


def test_averaged_weights_are_given_where_they_were_kept(store, tmp_path):
    run = finished_run(store, "resnet_s", ema=True)
    student = load_student(run, ema=True)
    torch.testing.assert_close(student.model.net.state_dict(), awake("resnet_s", 64, seed=1).net.state_dict())
    export_student(student, tmp_path / "out")
    assert "60.00 %, of the averaged weights" in (tmp_path / "out/README.md").read_text()
    run.ema.unlink()
    with pytest.raises(UsageError, match="not kept; remove .* and run it with --keep ema"):
        load_student(run, ema=True)
    with pytest.raises(UsageError, match="has no ema_decay"):
        load_student(finished_run(store, "vit_xs"), ema=True)


def test_a_run_of_before_takes_names_and_statistics_from_its_dataset(store, tmp_path):
    """The named dataset's where its files are here or not; those of a folder have to be here."""
    demo, cifar, folder = (
        finished_run(store, "resnet_s", name) for name in ("fashion_demo", "cifar10", "timm:folder/x")
    )
    for run, classes in ((demo, 10), (cifar, 10), (folder, 2)):
        save_file(awake("resnet_s", 64, classes).export_state(), run.student)
        run.finish(run.record())
    data = load_dataset("fashion_demo")
    assert load_student(demo).facts.class_names == data.class_names and load_student(demo).facts.mean == data.mean
    facts = load_student(cifar, data_dir=tmp_path).facts
    assert facts.class_names == tuple("0123456789") and facts.mean == (0.4914, 0.4822, 0.4465)
    with pytest.raises(UsageError, match="needed for the names of the classes: give --data-dir"):
        load_student(folder, data_dir=tmp_path)


def test_unfinished_and_damaged_runs_are_one_line(store):
    run = finished_run(store)
    run.student.write_bytes(b"x")
    with pytest.raises(CakdError, match="damaged file .*student.safetensors"):
        load_student(run)
    (run.path / "record.json").unlink()
    with pytest.raises(UsageError, match="only a run that is done"):
        load_student(run)


@pytest.fixture(scope="module")
def trained(tiny, tmp_path_factory) -> Shell:
    """A grid under a recipe with averaged weights, which are kept."""
    shell = Shell(tiny, tmp_path_factory.mktemp("trained"))
    code, text = shell.run("--methods", "kd", "--keep", "ema", settings=(*SHORT, "recipe.ema_decay=0.5"))
    assert code == 0, text
    return shell


def test_a_trained_run_keeps_both_weights_with_names_and_statistics(trained):
    kd = Store(trained.store).find("kd-")
    last, averaged = read_weights(kd.student), read_weights(kd.ema)
    assert last[0].keys() == averaged[0].keys() and any(not last[0][k].equal(averaged[0][k]) for k in last[0])
    assert last[1] == averaged[1] and last[1].class_names == tuple("0123456789")
    assert not Store(trained.store).find("scratch-resnet_m").ema.exists()  # whose recipe averages none


@pytest.mark.parametrize("ema", [False, True])
def test_predict_and_the_export_say_what_the_evaluation_said(trained, tmp_path, ema):
    """On the test images: the classes of predictions.npy, the accuracy of the record, the names of the dataset."""
    run, data = Store(trained.store).find("kd-"), load_dataset("timm:folder/tiny", trained.data)
    paths = [Path(path) for path in data.test.image.paths]
    words, more = ("kd-", *map(str, paths), "--top", "3"), ["--ema"] * ema + ["--store", str(trained.store)]
    code, text = trained("predict", *words, *more, "--format", "json")
    rows = json.loads(text)
    assert code == 0 and [row["image"] for row in rows[::3]] == [str(path) for path in paths]
    first = [row["index"] for row in rows if row["rank"] == 1]
    record, labels = run.record(), [int(path.parent.name) for path in paths]
    if not ema:
        assert first == np.load(run.predictions).tolist()
    right = 100 * np.mean(np.equal(first, labels))
    assert right == pytest.approx(record.result.ema_top1 if ema else record.result.top1)
    assert all(row["class"] == str(row["index"]) for row in rows)
    assert rows[0]["probability"] >= rows[1]["probability"] >= rows[2]["probability"]

    code, text = trained("export", "kd-", "--to", str(tmp_path / "out"), *more)
    assert code == 0 and "local-dir:" in text
    net = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).eval()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(net), is_training=False)
    batch = torch.stack([transform(Image.open(path).convert("RGB")) for path in paths])
    with torch.no_grad():
        assert net(batch).argmax(1).tolist() == first


def test_predict_prints_tables_and_names_what_it_cannot_read(trained, tmp_path):
    image = next((trained.data / "tiny/val").glob("*/*.png"))
    places = "--store", str(trained.store)
    code, text = trained("predict", "kd-", str(image), "--top", "2", *places)
    assert code == 0 and text.count("%") == 2 and str(image) in text
    code, text = trained("predict", "kd-", str(image), "--format", "csv", "--top", "99", *places)
    assert code == 0 and text.startswith("image,rank,class,index,probability\n") and len(text.splitlines()) == 11
    (tmp_path / "x.png").write_bytes(b"x")
    for path in (tmp_path / "x.png", tmp_path / "gone.png", tmp_path):
        code, text = trained("predict", "kd-", str(path), *places)
        assert code and str(path) in text and len(text.splitlines()) == 1


def test_keep_ema_says_when_no_recipe_averages(shell):
    code, text = shell.run("--keep", "ema", "--methods", "scratch", "--dry-run")
    assert code == 0 and "no averaged weights to keep" in text
