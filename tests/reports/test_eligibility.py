"""What is standard, by the installed methods, recipes and suites."""

from types import SimpleNamespace

import pytest

from cakdbench.grid.pairs import Pair
from cakdbench.grid.plan import Settings, make_plan
from cakdbench.grid.suites import PairSpec, suites
from cakdbench.records import ENGINE_VERSION, Record
from cakdbench.registry import get_method, method_ids
from cakdbench.reports.standard import Standard, board_columns, column_of
from tests.reports.synthetic import record, taught_by

SPECS = [
    PairSpec(Pair.parse("swin_t>resnet18@cifar100"), "ofa_cifar_cnn"),
    PairSpec(Pair.parse("mixer_b16>swin_p@cifar100"), "ofa_cifar_msa"),
    PairSpec(Pair.parse("swin_t>resmlp_s12@cifar100"), "ofa_cifar_msa"),
]
EVERYTHING = [f"{id}:{variant}" for id in method_ids() for variant in get_method(id).variants] + method_ids()
DATASET = SimpleNamespace(name="cifar100", fingerprint="f" * 64, skipped=None)


def planned(methods, specs, settings=()):
    """The records that a plan's runs would leave, by column."""
    plan = make_plan(methods, specs, [0], Settings.parse(settings))
    for cell in plan.cells:
        identity = cell.identity(DATASET, taught_by(cell))
        names = {"label": cell.label, "recipe_name": cell.recipe.name}
        made = record("kd").model_dump() | {"identity": identity.model_dump()} | names
        (spec,) = [spec for spec in specs if spec.pair == cell.pair]
        yield column_of(spec), Record.model_validate_json(Record.model_validate(made).model_dump_json())


def test_every_method_and_variant_as_planned_is_standard():
    seen = set()
    for column, made in planned(EVERYTHING, SPECS):
        assert column.concerns(made)
        assert Standard().differences(made, column) == []
        assert Standard().label(made, column) == made.label
        seen.add(made.label)
    assert set(method_ids()) < seen <= set(EVERYTHING)


@pytest.mark.parametrize(
    ("setting", "labels"),
    [("recipe.epochs=1", {"scratch", "kd", "ofa"}), ("recipe.augment.mixup=0.5", {"scratch", "kd", "ofa"})],
)
def test_what_set_changes_in_the_recipe_is_named_and_no_longer_standard(setting, labels):
    name, value = setting.split("=")
    changed = {}
    for column, made in planned(["ofa"], SPECS, [setting]):
        for difference in Standard().differences(made, column):
            changed.setdefault(made.label, set()).add(difference)
    assert set(changed) == labels
    for differences in changed.values():
        assert all(each.startswith(f"{name} = {value}") and "(standard " in each for each in differences)


def test_what_set_changes_in_a_method_is_a_row_of_its_own():
    rows = {Standard().label(made, column) for column, made in planned(["ofa"], SPECS, ["ofa.gamma=9.5"])}
    assert rows == {"scratch", "kd", "ofa[gamma=9.5]"}


def test_a_run_of_an_earlier_version_or_of_other_code_is_not_standard():
    (column, made), *_ = [pair for pair in planned([], SPECS[:1]) if pair[1].label == "kd"]
    method = made.identity.method
    for code, reason in (
        ({"version": 7}, f"version 7 of kd (standard {method.version})"),
        ({"version": None, "source": "e" * 64}, f"kd as code that no version of it has ({'e' * 16})"),
    ):
        other = made.identity.model_copy(update={"method": method.model_copy(update=code)})
        assert Standard().differences(made.model_copy(update={"identity": other}), column) == [reason]


def test_a_run_of_another_engine_is_not_standard_however_many_there_are():
    (column, made), *_ = planned([], SPECS[:1])
    other = made.model_copy(update={"identity": made.identity.model_copy(update={"engine_version": 7})})
    assert Standard().differences(other, column) == [f"engine version 7 (standard {ENGINE_VERSION})"]


def test_a_method_that_is_not_installed_cannot_be_checked():
    (column, made), *_ = planned([], SPECS[:1])
    method = made.identity.method.model_copy(update={"id": "foreign"})
    stranger = made.model_copy(update={"identity": made.identity.model_copy(update={"method": method})})
    (reason,) = Standard().differences(stranger, column)
    assert reason.startswith("settings of scratch cannot be checked: unknown method 'foreign'")
    assert Standard().title("foreign") == "foreign"


def test_titles():
    rules = Standard()
    assert rules.title("fbt") == get_method("fbt").title
    assert rules.title("fbt:no_infonce") == f"{get_method('fbt').title}: no_infonce"


def test_refusals_are_the_methods_own():
    column = column_of(SPECS[0])
    assert Standard().refusal("kd", column) is None
    free = PairSpec(Pair.parse("timm:convnext_nano>timm:regnety_002@cifar100"), "ofa_cifar_cnn")
    plan = make_plan(["fbt"], [free], [0], Settings())
    reasons = {refusal.label: refusal.reason for refusal in plan.refusals}
    for label in ("scratch", "kd", "fbt"):
        assert Standard().refusal(label, column_of(free)) == reasons.get(label)


def test_a_board_has_every_pair_of_its_suites_once_in_their_order():
    columns = board_columns(suites().values(), "cifar100")
    assert [c.pair for c in columns] == [str(spec.pair) for spec in suites()["cifar_all"].specs]
    assert {c.test_images for c in columns} == {10_000}
    assert [c.recipe for c in columns] == [spec.recipe for spec in suites()["cifar_all"].specs]
