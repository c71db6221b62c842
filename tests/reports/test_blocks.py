"""Which records count, and the numbers made of them, against values computed another way."""

import random
import statistics

import numpy as np
import pytest

from cakdbench.records import Tuning
from cakdbench.reports.blocks import board_results
from cakdbench.reports.plots import costs
from cakdbench.reports.results_table import ENDINGS, results_table
from cakdbench.reports.sections import versions
from tests.reports.synthetic import CONFIGS, RECIPE, TestRules, column, record

A, B, C = "cnn_mini>vit_mini@demo", "msa_mini>vit_mini@demo", "cnn_mini>mlp_mini@demo"
METHODS = ("scratch", "kd", "ofa", "fbt")


def build(records, pairs=(A,), **changes):
    return board_results("demo", "Demo", [column(pair, **changes) for pair in pairs], records, TestRules())


def score(board, label, place=0, block=0):
    (row,) = [row for row in board.blocks[block].rows if row.label == label]
    return row.scores[place]


def gains(cell):
    """The gains over scratch by seed."""
    return cell.runs.set_index("seed")["gain"].dropna().to_dict()


def random_grid(seed, pairs=(A, C), methods=METHODS, seeds=3):
    rng = random.Random(seed)
    return [
        record(method, pair, s, round(rng.uniform(70, 90), 2))
        for pair in pairs
        for method in methods
        for s in range(seeds)
    ]


def test_a_row_says_by_how_many_trials_its_settings_were_found():
    plain = random_grid(0)
    tuning = Tuning(trials=20, pairs=(A,))
    tuned = [r.model_copy(update={"tuning": tuning}) if r.label == "ofa" else r for r in plain]
    before, after = ({row.label: row.title for row in build(each, (A, C)).blocks[0].rows} for each in (plain, tuned))
    assert after == before | {"ofa": f"{before['ofa']} (tuned, 20 trials)"}


class TestNumbers:
    @pytest.mark.parametrize("seed", range(5))
    def test_means_sds_and_gains_agree_with_numpy(self, seed):
        records = random_grid(seed)
        board = build(records, (A, C))
        top1 = {(r.identity.method.id, r.identity.student, r.identity.seed): r.result.top1 for r in records}
        for row in board.blocks[0].rows:
            for student, cell in zip(("vit_mini", "mlp_mini"), row.scores, strict=True):
                own = np.array([top1[row.label, student, s] for s in range(3)])
                scratch = np.array([top1["scratch", student, s] for s in range(3)])
                assert cell.mean == pytest.approx(own.mean(), abs=1e-9)
                assert cell.sd == pytest.approx(own.std(ddof=1), abs=1e-9)
                if row.label != "scratch":
                    assert cell.gain == pytest.approx((own - scratch).mean(), abs=1e-9)
            if row.label != "scratch":
                base = board.blocks[0].rows[0].scores
                gains = [cell.mean - scratch.mean for cell, scratch in zip(row.scores, base, strict=True)]
                assert row.average_gain == pytest.approx(statistics.mean(gains), abs=1e-9)

    def test_known_truth(self):
        truth = {"scratch": (80.0, 82.0), "kd": (81.0, 84.0)}
        board = build([record(m, A, s, v) for m, values in truth.items() for s, v in enumerate(values)])
        kd = score(board, "kd")
        assert (kd.mean, kd.sd, kd.gain) == (82.5, pytest.approx(2.1213203), 1.5)
        assert gains(kd) == {0: 1.0, 1: 2.0}
        assert score(board, "scratch").gain is None

    def test_one_seed_has_no_sd(self):
        board = build([record("kd", A, 0, 81.0), record("scratch", A, 0, 80.0)])
        assert (score(board, "kd").mean, score(board, "kd").sd, score(board, "kd").gain) == (81.0, None, 1.0)

    def test_gains_are_over_the_seeds_scratch_has_too(self):
        records = [record("scratch", A, s, 80.0 + s) for s in (0, 1, 2)]
        records += [record("kd", A, s, v) for s, v in ((1, 83.0), (2, 82.5), (7, 99.0))]
        kd = score(build(records), "kd")
        assert gains(kd) == {1: 2.0, 2: 0.5}
        assert kd.gain == 1.25
        assert kd.mean == pytest.approx((83.0 + 82.5 + 99.0) / 3)

    def test_without_a_common_seed_there_is_no_gain(self):
        board = build([record("scratch", A, 0), record("kd", A, 1)])
        assert score(board, "kd").gain is None
        assert board.blocks[0].rows[1].average_gain is None

    def test_the_last_epoch_counts_not_the_best(self):
        board = build([record("kd", A, 0, 81.0, optimistic=95.0), record("scratch", A, 0, 80.0, optimistic=99.0)])
        assert (score(board, "kd").mean, score(board, "kd").gain) == (81.0, 1.0)


class TestWhichRecordsCount:
    def test_scratch_serves_every_pair_of_its_student(self):
        records = [record("scratch", A, 0, 80.0), record("kd", A, 0, 81.0), record("kd", B, 0, 82.0)]
        board = build(records, (A, B))
        assert [s.mean for s in board.blocks[0].rows[0].scores] == [80.0, 80.0]
        assert [s.gain for s in board.blocks[0].rows[1].scores] == [1.0, 2.0]

    def test_a_taught_record_serves_its_own_teacher_only(self):
        board = build([record("kd", B, 0, 82.0)], (A, B))
        assert [c.column.pair for c in board.blocks[0].columns] == [B]

    @pytest.mark.parametrize(
        ("changes", "reason"),
        [
            ({"recipe": RECIPE | {"epochs": 1}}, "recipe.epochs = 1 (standard 8)"),
            ({"recipe": RECIPE | {"optimizer": {"lr": 0.2}}}, "recipe.optimizer.lr = 0.2 (standard 0.1)"),
            ({"recipe": RECIPE | {"ema_decay": 0.9}}, "recipe.ema_decay = 0.9 (standard null)"),
            ({"config": {"temperature": 4.0, "weight": 1.0}}, "kd.temperature = 4.0 (standard 1.0)"),
            ({"top1": float("nan")}, "a result is not a finite number"),
            ({"top1": 80.0, "optimistic": float("inf")}, "a result is not a finite number"),
        ],
    )
    def test_changed_settings_never_reach_the_table(self, changes, reason):
        records = [record(m, A, s, 80.0 + s) for m in METHODS for s in (0, 1)]
        odd = record("kd", A, 2, **({"top1": 99.0} | changes))
        board = build([*records, odd])
        assert [(a.record.key, a.pair, a.reasons) for a in board.excluded] == [(odd.key, A, (reason,))]
        assert board.blocks == build(records).blocks

    def test_every_change_is_named(self):
        odd = record("kd", A, recipe=RECIPE | {"epochs": 1, "image_size": 96}, config={"temperature": 2.0})
        (aside,) = build([odd]).excluded
        assert aside.reasons == (
            "recipe.epochs = 1 (standard 8)",
            "recipe.image_size = 96 (standard 64)",
            "kd.temperature = 2.0 (standard 1.0)",
            "kd.weight = null (standard 1.0)",
        )

    def test_numbers_of_another_type_with_the_same_value_are_no_change(self):
        assert not build([record("kd", A, config={"temperature": 1, "weight": 1})]).excluded

    def test_another_recipe_is_counted_by_name(self):
        other = [record("kd", A, s, recipe=RECIPE | {"epochs": 99}, recipe_name="mine") for s in (0, 1)]
        board = build([record("kd", A), *other])
        assert (board.other_recipes, board.excluded) == ({"mine": 2}, ())

    def test_the_numbers_decide_not_the_name_of_the_recipe(self):
        board = build([record("kd", A, recipe_name="renamed")])
        assert score(board, "kd").mean == 80.0
        assert not board.other_recipes

    def test_the_training_of_a_teacher_is_no_run_of_the_board(self):
        training = record("scratch", A, recipe=RECIPE | {"epochs": 20}, recipe_name="teacher")
        taught = record("kd", B)
        identity = taught.identity.model_copy(
            update={"teacher": taught.identity.teacher.model_copy(update={"sha256": training.weights_sha256})}
        )
        board = build([training, taught.model_copy(update={"identity": identity})], (A, B))
        assert (board.other_recipes, board.excluded) == ({}, ())

    def test_records_of_other_pairs_are_ignored(self):
        strangers = [record("kd", "a>b@demo"), record("kd", "cnn_mini>vit_mini@cifar100"), record("scratch", C)]
        board = build([record("kd", A), *strangers])
        assert vars(board) == vars(build([record("kd", A)]))

    def test_two_recipes_of_one_pair_are_two_columns(self):
        numbers = RECIPE | {"epochs": 20}
        columns = [column(A), column(A, recipe="long", numbers=numbers)]
        records = [record("kd", A, 0, 80.0), record("kd", A, 0, 85.0, recipe=numbers, recipe_name="long")]
        board = board_results("demo", "Demo", columns, records, TestRules())
        assert [s.mean for s in board.blocks[0].rows[1].scores] == [80.0, 85.0]
        assert not board.excluded

    def test_a_key_counts_once_with_its_latest_record(self):
        early = record("kd", A, 0, 80.0, finished="2025-01-01T00:00:00+00:00")
        late = early.model_copy(update={"result": early.result.model_copy(update={"top1": 85.0})})
        late = late.model_copy(
            update={"conditions": late.conditions.model_copy(update={"finished": "2025-02-01T00:00:00+00:00"})}
        )
        for records in ([early, late, early], [late, early]):
            cell = score(build(records), "kd")
            assert (cell.mean, cell.seeds) == (85.0, (0,))


class TestOneOfAKind:
    @pytest.mark.parametrize(
        ("trait", "values", "name"),
        [
            ("fingerprint", ("f" * 64, "e" * 64), "dataset fingerprint eeeeeeee (in the table: ffffffff)"),
        ],
    )
    def test_a_column_has_what_most_records_have(self, trait, values, name):
        usual, rare = values
        records = [record("kd", A, s, **{trait: usual}) for s in (0, 1)]
        odd = record("ofa", A, 0, 99.0, finished="2026-01-01T00:00:00+00:00", **{trait: rare})
        board = build([*records, odd])
        assert [(a.record.key, a.reasons) for a in board.excluded] == [(odd.key, (name,))]
        assert [row.label for row in board.blocks[0].rows] == ["scratch", "kd"]

    def test_a_column_has_one_teacher_file_and_scratch_stays(self):
        records = [record("scratch", A, 0), record("kd", A, 0), record("fbt", A, 0)]
        other = record("ofa", A, 0, teacher_file="another")
        board = build([*records, other])
        assert [a.record.key for a in board.excluded] == [other.key]
        assert board.excluded[0].reasons[0].startswith("teacher file ")
        assert len(board.blocks[0].columns[0].records) == 3

    def test_the_latest_wins_a_tie(self):
        old = record("kd", A, 0, 80.0, fingerprint="0" * 64, finished="2025-01-01T00:00:00+00:00")
        new = record("kd", A, 0, 81.0, fingerprint="1" * 64, finished="2025-02-01T00:00:00+00:00")
        for records in ([old, new], [new, old]):
            board = build(records)
            assert score(board, "kd").mean == 81.0
            assert [a.record.key for a in board.excluded] == [old.key]

    def test_sources_of_a_method_are_not_mixed_in_a_cell(self):
        records = [record("kd", A, s, 80.0, source="old") for s in (0, 1)]
        new = record("kd", A, 2, 90.0, source="new")
        board = build([*records, new, record("ofa", A, 0, source="new")])
        assert score(board, "kd").seeds == (0, 1)
        assert [a.record.key for a in board.excluded] == [new.key]
        assert score(board, "ofa").seeds == (0,)


class TestPrecision:
    def test_precisions_stand_in_blocks_of_their_own(self):
        records = [record(m, A, 0, 80.0 + i) for i, m in enumerate(("scratch", "kd"))]
        records += [record(m, A, 0, 70.0 + 5 * i, precision="bf16") for i, m in enumerate(("scratch", "kd"))]
        board = build(records)
        assert [block.precision for block in board.blocks] == ["fp32", "bf16"]
        assert [score(board, "kd", block=block).gain for block in (0, 1)] == [1.0, 5.0]

    def test_no_gain_over_a_scratch_of_another_precision(self):
        board = build([record("scratch", A, 0), record("kd", A, 0, precision="bf16")])
        assert score(board, "kd", block=1).gain is None


class TestRows:
    def test_baselines_then_coverage_then_average_gain(self):
        gains = {"scratch": 0.0, "kd": 0.5, "fbt": 3.0, "ofa": 2.0, "fbt:no_infonce": 1.0}
        records = [record(m, p, 0, 80.0 + g) for m, g in gains.items() for p in (A, B) if (m, p) != ("fbt", B)]
        labels = [row.label for row in build(records, (A, B)).blocks[0].rows]
        assert labels == ["scratch", "kd", "ofa", "fbt:no_infonce", "fbt"]

    def test_equal_gains_are_ordered_by_name(self):
        records = [record(m, A, 0, 81.0) for m in ("ofa", "fbt")] + [record("scratch", A, 0, 80.0)]
        assert [row.label for row in build(records).blocks[0].rows] == ["scratch", "kd", "fbt", "ofa"]

    def test_a_board_without_records_has_all_pairs_and_the_baselines(self):
        board = build([], (A, C))
        (block,) = board.blocks
        assert [c.column.pair for c in block.columns] == [A, C]
        assert [row.label for row in block.rows] == ["scratch", "kd"]
        assert len(board.missing) == 12 and board.unmeasured == ()

    def test_pairs_without_records_are_left_out_and_named_as_unmeasured(self):
        board = build([record("ofa", A, 3), record("fbt", A, 3)], (A, B, C))
        assert [c.column.pair for c in board.blocks[0].columns] == [A]
        runs = {(m.label, m.column.pair, m.seed) for m in board.unmeasured}
        everywhere = {(label, pair, 3) for label in ("scratch", "kd", "ofa") for pair in (B, C)}
        assert runs == everywhere | {("fbt", B, 3)}

    def test_a_pair_that_only_has_its_students_scratch_is_unmeasured_and_lacks_the_rest(self):
        board = build([record("scratch", A), record("kd", A)], (A, B))
        assert [c.column.pair for c in board.blocks[0].columns] == [A]
        assert [(m.label, m.column.pair) for m in board.unmeasured] == [("kd", B)]

    def test_missing_runs(self):
        records = [record("scratch", A, s) for s in (0, 1)] + [record("kd", A, 1), record("ofa", A, 0)]
        missing = build(records).missing
        assert [(m.label, m.seed, m.precision) for m in missing] == [("kd", 0, "fp32"), ("ofa", 1, "fp32")]

    def test_refused_cells_are_not_missing(self):
        board = build([record("scratch", A), record("fbt", A), record("kd", C)], (A, C))
        assert score(board, "fbt", place=1).refusal == "fbt needs four stages of four sizes"
        assert {(m.label, m.column.pair) for m in board.missing} == {("kd", A), ("scratch", C)}

    def test_a_record_is_shown_even_if_the_rules_refuse_its_pair(self):
        cell = score(build([record("fbt", C, 0, 77.0)], (C,)), "fbt")
        assert (cell.mean, cell.refusal) == (77.0, None)


@pytest.mark.parametrize("seed", range(10))
def test_the_order_of_the_records_changes_nothing(seed):
    rng = random.Random(seed)
    records = random_grid(seed, (A, B, C), list(CONFIGS))
    records = [r for r in records if rng.random() < 0.8]
    records += [record("kd", A, 0, 71.0, fingerprint="e" * 64), record("ofa", B, 1, 72.0, precision="bf16")]
    records += [record("kd", A, 9, recipe=RECIPE | {"epochs": e}) for e in (1, 2, 3)]
    board = build(records, (A, B, C))
    for _ in range(5):
        rng.shuffle(records)
        assert vars(build(records, (A, B, C))) == vars(board)


def judged(records, statuses):
    board = board_results("demo", "Demo", [column(A)], records, TestRules(), statuses=statuses)
    return board, {run.record.key: run.reasons[0] for run in board.excluded}


def test_a_claim_of_a_ranking_seed_takes_no_accepted_run_off():
    accepted = [record("kd", A, seed, top1) for seed, top1 in ((17, 80.0), (44, 80.25), (91, 80.5))]
    claim = record("kd", A, 0, 20.0)
    statuses = dict.fromkeys((run.key for run in accepted), "re-scored") | {claim.key: "claimed"}
    board, excluded = judged([*accepted, claim], statuses)
    assert score(board, "kd").mean == 80.25
    assert excluded == {claim.key: "claimed (in the table: accepted runs)"}


def test_own_runs_go_before_claims_however_many():
    own = [record("kd", A, seed, 70.0) for seed in (0, 1)]
    claims = [record("kd", A, seed, 90.0, teacher_file="another") for seed in (0, 1, 2)] + [record("kd", A, 2, 95.0)]
    board, excluded = judged([*own, *claims], dict.fromkeys((run.key for run in claims), "claimed"))
    assert (score(board, "kd").mean, score(board, "kd").seeds, score(board, "kd").is_claimed) == (70.0, (0, 1), False)
    assert set(excluded) == {run.key for run in claims}


def test_claims_on_one_more_pair_change_nothing_that_is_said_of_accepted_rows():
    accepted = random_grid(0)
    tuning = Tuning(trials=20, pairs=(B,))
    claims = [
        record(label, B, seed, 99.0, images_per_second=1.0, versions={"torch": "9"}).model_copy(
            update={"tuning": tuning}
        )
        for label in ("kd", "ofa")
        for seed in (0, 1, 2, 17)
    ]

    def said(records, statuses):
        (block,) = board_results(
            "demo", "Demo", [column(pair) for pair in (A, C, B)], records, TestRules(), statuses=statuses
        ).blocks
        table = results_table(block)[list(ENDINGS)].to_dict("list")
        return table, [row.title for row in block.rows], costs(block).to_dict(), block.seeds, versions(block)

    statuses = dict.fromkeys((run.key for run in accepted), "re-scored")
    both = statuses | dict.fromkeys((run.key for run in claims), "claimed")
    assert said([*accepted, *claims], both) == said(accepted, statuses)
