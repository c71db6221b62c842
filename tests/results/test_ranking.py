"""Ranks, groups and the best of each pair, from runs with chosen predictions."""

import numpy as np
import pandas as pd

from cakdbench.results.ranking import standings

A, B = ("cnn_mini>vit_mini@demo", "demo"), ("cnn_mini>mlp_mini@demo", "demo")
IMAGES = 2000
SKILLS = {"scratch": (0.5, 0.5), "kd": (0.7, 0.7), "ofa": (0.7, 0.7), "fbt:no_infonce": (0.9, 0.6)}


def made(skills, pairs=(A, B), seeds=(0, 1, 2)):
    """Runs whose accuracy is that of chosen answers; method to the share it has right on each pair."""
    rows, answers = [], {}
    for place, (pair, recipe) in enumerate(pairs):
        hardness = np.random.default_rng(place).random(IMAGES)
        for method, shares in skills.items():
            for seed in seeds:
                key = f"{method} {pair} {seed}"
                answers[key] = hardness < shares[place] + 0.001 * seed
                row = {"key": key, "method": method, "pair": pair, "recipe": recipe, "seed": seed}
                rows.append(row | {"top1": 100 * answers[key].mean()})
    return pd.DataFrame(rows), answers.get


def three(skills=SKILLS):
    return {name: shares for name, shares in skills.items() if not name.startswith("fbt")}


def test_groups_and_ranks_of_known_truth():
    found = standings(*_with_pairs(made(three())))
    assert found.letters == {"kd": "a", "ofa": "a", "scratch": "b"}
    assert found.ranks == {"kd": 1.5, "ofa": 1.5, "scratch": 3.0}
    assert found.inseparable == {frozenset(("kd", "ofa"))}
    assert found.level == (frozenset(("kd", "ofa")),) * 2


def test_a_method_without_all_pairs_is_unranked_but_may_be_the_best_of_one():
    runs, answers = made(SKILLS)
    runs = runs[(runs.method != "fbt:no_infonce") | (runs.pair == A[0])]
    found = standings(runs, (A, B), answers)
    assert "fbt:no_infonce" not in found.ranks | found.letters
    assert found.level == (frozenset({"fbt:no_infonce"}), frozenset({"kd", "ofa"}))


def test_a_pair_under_another_recipe_is_another_column():
    runs, answers = made(three(), pairs=(A, (A[0], "other")))
    assert set(standings(runs, (A, (A[0], "other")), answers).ranks) == {"kd", "ofa", "scratch"}
    assert set(standings(runs[runs.recipe == "demo"], (A, (A[0], "other")), answers).ranks) == set(SKILLS) - {
        "fbt:no_infonce"
    }


def test_a_run_on_one_more_pair_takes_no_rank_away_until_it_is_a_whole_pair():
    runs, answers = made(SKILLS)
    before = standings(runs[runs.pair == A[0]], (A, B), answers)
    assert len(before.ranks) == 4 and before.letters
    on_b = runs.pair == B[0]
    few = runs[~on_b | (runs.method == "ofa") & (runs.seed == 0)]
    bare = runs[~on_b | runs.method.isin(["scratch", "kd"])]
    claims = runs.assign(status=np.where(on_b, "claimed", "re-scored"))
    for more in (few, bare, claims):
        found = standings(more, (A, B), answers)
        assert (found.ranks, found.letters) == (before.ranks, before.letters)
    whole = standings(runs[runs.method != "fbt:no_infonce"], (A, B), answers)
    assert standings(runs[~on_b | (runs.method != "fbt:no_infonce")], (A, B), answers).ranks == whole.ranks


def test_without_predictions_or_a_third_seed_nothing_is_grouped():
    for runs, answers, ranked in ((*made(SKILLS, seeds=(0, 1)), 0), (made(SKILLS)[0], lambda key: None, 4)):
        found = standings(runs, (A, B), answers)
        assert found.letters == {} and found.inseparable == frozenset() and found.level == (frozenset(),) * 2
        assert len(found.ranks) == ranked


def test_pairs_of_other_test_images_give_ranks_and_no_letters():
    runs, answers = made(three())
    on_b = {*runs.key[runs.pair == B[0]]}
    found = standings(runs, (A, B), lambda key: answers(key)[: IMAGES - (key in on_b)])
    assert len(found.ranks) == 3 and found.letters == {} and found.inseparable == frozenset()
    assert found.level == (frozenset(("kd", "ofa")),) * 2


def test_the_order_of_runs_changes_nothing():
    runs, answers = made(SKILLS)
    wanted = standings(runs, (A, B), answers)
    for seed in range(3):
        assert standings(runs.sample(frac=1, random_state=seed), (A, B), answers) == wanted


def test_a_method_whose_seeds_collapse_is_not_tested_and_spoils_no_other():
    skills = three() | {f"m{n}": (0.6, 0.6) for n in range(3)}
    runs, answers = made(skills | {"wild": (0.8, 0.8)})
    collapsed = (runs.method == "wild") & (runs.pair == A[0]) & (runs.seed == 1)
    key = runs.key[collapsed].item()
    runs.loc[collapsed, "top1"] = 10.0
    found = standings(runs, (A, B), lambda name: np.arange(IMAGES) < 200 if name == key else answers(name))
    assert found.unstable == (frozenset({"wild"}), frozenset())
    assert "wild" in found.ranks and "wild" not in found.letters
    assert found.level == (frozenset({"kd", "ofa"}), frozenset({"wild"}))
    calm = standings(*_with_pairs(made(skills)))
    assert {name: found.letters[name] for name in calm.letters} == calm.letters


def _with_pairs(made):
    runs, answers = made
    return runs, (A, B), answers
