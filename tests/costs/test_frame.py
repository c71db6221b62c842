"""Frames of costs, the command and the page."""

import csv
import io
import json
from dataclasses import asdict

import pandas as pd
import pytest

from cakdbench.costs.frame import COUNTS, count_costs
from cakdbench.costs.method_costs import method_costs
from cakdbench.costs.papers import PAIRS
from cakdbench.data.shipped import SHIPPED
from cakdbench.grid.suites import resolve_pairs
from cakdbench.recipes import load_recipe
from cakdbench.registry import get_method, methods_in_order
from cakdbench.reports import page_costs as costs_page
from cakdbench.reports.markdown import board_markdown
from cakdbench.reports.page_costs import COUNTED, methods_board
from cakdbench.reports.pages import FORMATS
from cakdbench.reports.standard import Standard, column_of
from cakdbench.results.frame import measured_frame
from tests.analysis.links import of, record_of, taught
from tests.reports.synthetic import record
from tests.results.lab import copy_run

KNOWN = (
    11_689_512, 1_824_033_792, 1_814_073_344, 5_679_400, 5_717_416, 1_078_633_728, 1_253_683_200,  # students
    15_322_456, 15_350_872, 3_009_739_776,
    387_648, 498_630, 75_826_864, 100_718_080, 535_104, 646_086, 104_728_240, 129_619_456,  # L2G
    1_483_392, 1_926_534, 290_479_792, 383_785_984,
    4_920_736, 98_431_488, 5_810_848, 252_223_488, 21_644_704, 986_892_288,  # OFA as the papers counted it
    3_041_184, 75_179_520, 4_477_984, 191_218_176, 16_324_768, 736_978_176,  # OFA as released
    305_008_384, 407_057_536, 333_909_760, 435_958_912, 876_095_488, 1_122_058_240,  # FBT with its reused tail
)  # fmt: skip
DEMO = "resnet_m>vit_xs@fashion_demo"


@pytest.fixture(scope="module")
def costs():
    return count_costs("kd,cc,pcagl", DEMO)


def rows_of(text):
    return list(csv.DictReader(io.StringIO(text)))


def test_the_frame_holds_what_is_counted_and_why_not(costs):
    counted = list(method_costs(["kd", "cc", "pcagl"], resolve_pairs(DEMO)))
    assert costs["method"].tolist() == ["kd", "cc", "pcagl"] and set(costs["pair"]) == {DEMO}
    assert set(costs["teacher"]) == {"resnet_m"} and set(costs["student"]) == {"vit_xs"}
    assert set(costs["recipe"]) == {"demo"} and set(costs["dataset"]) == {"fashion_demo"}
    for row, cost in zip(costs.itertuples(), counted[:2]):
        assert {name: getattr(row, name) for name in COUNTS} == {name: getattr(cost, name) for name in COUNTS}
    assert costs.loc[1, "extra_parameters"] == 128 * (64 + 192) + 256
    assert costs["refusal"].isna().tolist() == [True, True, False] and costs.loc[2, COUNTS].isna().all()
    assert costs.loc[2, "refusal"] == counted[2].reason


def test_methods_may_be_a_list_and_classes_and_recipe_chosen():
    few = count_costs(["ofa:stage_1", "ofa"], DEMO, num_classes=7)
    assert few["method"].tolist() == ["ofa:stage_1", "ofa"] and set(few["classes"]) == {7}
    assert few["extra_parameters"].is_monotonic_increasing and few["extra_parameters"].dtype == "Int64"
    assert set(count_costs("kd", DEMO, recipe="ofa_cifar_cnn")["image_size"]) == {224}
    assert len(count_costs("tas,fbt", DEMO)) == 1


def test_markdown_has_one_line_a_method_and_reasons_below(costs):
    head, table, notes = board_markdown(methods_board(costs)).rstrip().split("\n\n")
    lines = table.splitlines()
    assert head == "# Costs of methods"
    assert len(lines) == 2 + 3 and {line.count("|") for line in lines} == {len(COUNTED) + 3}
    assert f"{costs.loc[1, 'extra_parameters']:,}" in lines[3] and lines[4].count("n/a") == len(COUNTED)
    assert notes.startswith("- n/a: pcagl on ") and "use a CNN student" in notes


@pytest.mark.parametrize("ending", FORMATS)
def test_counts_and_reasons_are_in_every_format(costs, ending):
    text = FORMATS[ending](methods_board(costs))
    assert f"{costs.loc[1, 'extra_parameters']:,}" in text and "use a CNN student" in text


def test_names_of_others_cannot_break_a_table(costs):
    foreign = costs.assign(method=["a|b", "<script>", "c"], refusal=[None, None, "no\n| such [thing]"])
    text = board_markdown(methods_board(foreign))
    assert "a\\|b" in text and "<script>" not in text
    assert all(line.startswith(("|", "-", "#")) for line in text.splitlines() if line)


def test_measured_groups_runs_of_the_same_settings_on_the_same_device():
    gpu = {"device": "NVIDIA H200", "processes": 4, "seconds": 1800.0, "peak_memory_mb": 900.0}
    runs = [record("ofa", DEMO, seed, images_per_second=speed) for seed, speed in ((0, 100.0), (1, 300.0))]
    runs += [record("ofa", DEMO, 2, **gpu, energy_wh=55.0), record("ofa", DEMO, 3, **gpu)]
    runs += [record("ofa", DEMO, 4, recipe={"epochs": 9})]
    frame = measured_frame(runs).sort_values(["device", "runs"], ascending=[True, False])
    cpu, other, fast = frame.itertuples()
    assert (cpu.runs, cpu.images_per_second) == (2, 200)
    assert pd.isna([cpu.gpu_hours, cpu.energy_wh, cpu.peak_memory_mb]).all()
    assert (other.runs, other.device) == (1, cpu.device)
    assert (fast.runs, fast.gpu_hours, fast.energy_wh, fast.peak_memory_mb) == (2, 2.0, 55.0, 900.0)
    assert cpu.pair == DEMO and measured_frame([record("scratch", DEMO)])["pair"].tolist() == ["vit_xs@fashion_demo"]
    assert measured_frame([]).empty


def test_the_command_writes_a_file(shell, tmp_path):
    code, output = shell(
        "cost", "--methods", "kd,cc", "--pairs", DEMO, "--classes", "7", "--format", "csv", "--output", "out/costs.csv"
    )
    assert code == 0 and "written: out/costs.csv" in output
    kd, cc = rows_of((tmp_path / "out" / "costs.csv").read_text())
    assert int(cc["extra_parameters"]) == 128 * (64 + 192) + 256 and kd["refusal"] == ""
    assert (kd["method"], cc["method"], kd["classes"]) == ("kd", "cc", "7")


def of_version_1(run):
    """The run as the method's present version makes it."""
    method = run.identity.method.model_copy(update={"version": 1, "source": None})
    return run.model_copy(update={"identity": run.identity.model_copy(update={"method": method})})


def test_what_students_of_several_teachers_and_of_runs_measured_stands_beside_their_counts(shell, tmp_path):
    store = tmp_path / "runs"
    first = copy_run(store, of("kd", "vit_xs")[0])
    link = json.loads((first / "record.json").read_bytes())
    taught(store, of("kd", "mixer_xs")[0], [link], [f"run {first.name}"], False)
    teachers = [record_of(of("scratch", name, "demo_teacher")[0]) for name in ("resnet_m", "swin_m")]
    taught(store, of("kd", "vit_xs")[1], teachers, 2 * ["trained by demo_teacher"], True)
    pairs = f"run:kd:{DEMO}>mixer_xs@fashion_demo", "resnet_m+swin_m>vit_xs@fashion_demo"
    words = ("--methods", "kd", "--pairs", ",".join(pairs), "--format", "json")
    code, output = shell("cost", *words, "--store", str(store))
    assert code == 0, output
    rows = {row["pair"]: row for row in json.loads(output)}
    for pair, path in zip(pairs, (of("kd", "mixer_xs")[0], of("kd", "vit_xs")[1])):
        assert rows[pair]["seconds"] == pytest.approx(record_of(path)["conditions"]["seconds"])
        assert rows[pair]["runs"] == 1


def test_the_command_prints_and_takes_only_standard_runs_of_a_store(shell, tmp_path):
    (spec,) = resolve_pairs(DEMO)
    column, config = column_of(spec), asdict(get_method("kd").Config())
    facts = {"recipe": load_recipe("demo").identity(), "fingerprint": SHIPPED["fashion_demo"].fingerprint}
    own = record("kd", DEMO, config=config, images_per_second=1234.0, **facts)
    changed = record("kd", DEMO, 1, config=config | {"weight": 2.0}, images_per_second=10.0, **facts)
    own, changed = of_version_1(own), of_version_1(changed).model_copy(update={"label": "kd[weight=2.0]"})
    assert not Standard().differences(own, column)
    for each in (own, changed):
        folder = tmp_path / "runs" / each.key
        folder.mkdir(parents=True)
        (folder / "identity.json").write_text(each.identity.model_dump_json())
        (folder / "record.json").write_text(each.model_dump_json())
    code, output = shell("cost", "--methods", "kd", "--pairs", DEMO, "--store", str(tmp_path / "runs"))
    assert code == 0 and "1,234" in output and "CPU (x86_64)" in output and "622" not in output
    assert output.count("resnet_m>vit_xs") == 1


def test_the_command_writes_json(shell):
    code, output = shell("cost", "--methods", "kd,pcagl", "--pairs", DEMO, "--format", "json")
    kd, pcagl = json.loads(output)
    assert code == 0 and (kd["method"], kd["added_macs"], kd["refusal"]) == ("kd", 0, None)
    assert pcagl["added_macs"] is None and "use a CNN student" in pcagl["refusal"]


FAILING = """
from cakdbench.method import Method
from cakdbench.registry import register

@register("failing", title="Failing", paper="none", url="https://example.org", kind="logits")
class Failing(Method):
    "Asks for what is not there."

    def distill_step(self, batch):
        return self.student.no_such_thing
"""


def test_a_method_that_fails_is_named_and_the_others_are_counted(shell, tmp_path):
    (tmp_path / "failing.py").write_text(FAILING)
    code, output = shell("cost", "--method-file", "failing.py", "--methods", "kd,failing", "--pairs", DEMO)
    assert code == 0 and "Traceback" not in output
    assert f"failing on {DEMO} fails while its costs are counted: AttributeError: " in " ".join(output.split())


def test_a_method_of_ones_own_is_counted(shell, tmp_path):
    assert shell("new", "mine")[0] == 0
    code, output = shell("cost", "--method-file", "mine.py", "--methods", "mine,tas:heads_6", "--pairs", DEMO)
    assert code == 0 and "| mine " in output and "| fbt:heads_6 " in output


def test_unknown_names_and_no_methods_are_refused(shell):
    assert shell("cost", "--methods", "fbd", "--pairs", DEMO)[0] == 2
    code, output = shell("cost", "--methods", ",", "--pairs", DEMO)
    assert code == 2 and "no methods named" in output


@pytest.fixture(scope="module")
def page():
    """The page, with two methods in its last table, and a run."""
    methods = [get_method(name) for name in ("kd", "pcagl")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(costs_page, "methods_in_order", lambda: methods)
        with_runs = board_markdown(costs_page.costs_board([record("kd", DEMO, images_per_second=1234.0)]))
        return board_markdown(costs_page.costs_board()), with_runs


def test_the_page_holds_both_tables_and_marks_the_cell_that_does_not_agree(page):
    counted, _ = page
    assert "**17 of 18 printed numbers agree" in counted
    assert "**0.07** ✗ computed 0.08" in counted and counted.count("✗") == 1
    for number in KNOWN:
        assert f" {number:,} " in counted
    for ratio in ("16.4 %", "7.9 %", "134.0 %", "70.0 %", "67.8 %", "52.1 %"):
        assert ratio in counted
    assert "above that of released OFA on 3 of 3 pairs" in counted


def test_the_page_has_every_method_on_every_pair(page):
    counted, _ = page
    assert counted.count("\n| kd ") == counted.count("\n| pcagl ") == len(PAIRS)
    assert "n/a: pcagl on resnet50>deit\\_t" not in counted and "use a CNN student" in counted
    assert {method.id for method in methods_in_order()} >= {"scratch", "kd", "ofa", "fbt"}


def test_measured_numbers_appear_with_records_only(page):
    counted, with_runs = page
    assert with_runs.startswith(counted.rstrip("\n")) and "## Measured" not in counted
    assert "## Measured" in with_runs and "1,234" in with_runs
