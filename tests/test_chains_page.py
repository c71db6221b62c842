"""The commands and the row of docs/chains.md are as they stand there."""

import re
import shlex
from pathlib import Path

from cakdbench.engine.options import run_options
from cakdbench.engine.session import Session
from cakdbench.grid.suites import suites_from_file
from cakdbench.registry import get_method, method_ids

PAGE = (Path(__file__).parents[1] / "docs" / "chains.md").read_text()
BLOCKS = re.findall(r"(?:^    .*\n)+", PAGE, re.MULTILINE)


def test_the_commands_have_a_plan(tmp_path):
    plans = []
    for line in BLOCKS[0].strip().splitlines():
        _, _, _, methods, _, pairs = shlex.split(line)
        plan = Session(run_options(methods, pairs=pairs, store=tmp_path, cpu=True)).plan
        assert not plan.refusals
        plans.append([(cell.label, cell.pair.student) for cell in plan.cells if cell.label != "scratch"])
    assert plans == [
        [("fbt", "vit_xs"), ("kd", "resnet_s")],
        [("fbt", "vit_xs"), ("kd", "mobilenet_s"), ("kd", "resnet_s")],
        [("kd", "vit_xs"), ("rkd", "vit_xs")],
    ]


def test_the_row_is_one_of_a_file_of_pairs(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text(f'board = "mine"\n[suites.mine]\ntitle = "mine"\nrecipe = "demo"\n{BLOCKS[1].strip()}\n')
    (spec,) = suites_from_file(file)["mine"].specs
    assert spec.init == "run:kd:resnet_m>resnet_s@fashion_demo"


def test_the_table_has_all_methods_that_take_several():
    table = {id for row in re.findall(r"^\| (?:from|by) .*$", PAGE, re.MULTILINE) for id in re.findall(r"`(\w+)`", row)}
    assert table == {id for id in method_ids() if get_method(id).several_teachers}
