"""Suites of pairs: what `--pairs` may say, and the files the suites come from."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from cakdbench.data.holdout import whole_name
from cakdbench.grid.pairs import Pair, named_run, run_name
from cakdbench.labels import split_list
from cakdbench.models.zoo import model_kind
from cakdbench.recipes import Recipe, default_recipe, load_recipe
from cakdbench.utils.errors import UsageError, unknown
from cakdbench.utils.toml import PAIRS_DIR, Table, checked, inside, read_toml

OTHER = "other"
"""The board of pairs that no suite has."""
NO_SUITES = {"teachers.toml", "tiny.toml"}
"""Files beside the suites that hold none."""
NO_BOARDS = {OTHER, "conflicts", "costs", "readme", "reproduction", "rules"}
"""Names that are taken in a folder of boards, besides those of the boards that come with cakdbench."""


@dataclass(frozen=True)
class PairSpec:
    """A pair and the recipe it is trained by: a name, or the path of a file.

    Attributes:
        init: the run that its student starts from, `run:METHOD:PAIR`, in place of what the recipe says.
        given: the user has chosen the recipe for the whole plan: the runs that the pair names have it too.
    """

    pair: Pair
    recipe: str
    init: str | None = None
    given: bool = field(default=False, compare=False)

    def load_recipe(self, changed: Mapping[str, Any] = {}) -> Recipe:
        """Return the recipe with changed numbers, and with the pair's own start where they name none."""
        recipe = load_recipe(self.recipe).override(changed)
        return recipe.model_copy(update={"init": self.init}) if self.init and "init" not in changed else recipe


@dataclass(frozen=True)
class Suite:
    """A named list of pairs.

    Attributes:
        board: the leaderboard of its results; `board_title` is its title, if it is not that of its largest suite.
        protocol: that of the printed numbers for these pairs, as in `leaderboards/published/`.
        groups: the suites it is made of.
    """

    name: str
    title: str
    board: str
    specs: tuple[PairSpec, ...]
    source: str = ""
    notes: str = ""
    groups: tuple[str, ...] = ()
    board_title: str = ""
    protocol: str | None = None


def _row(value: Any) -> Any:
    return {"pair": value} if isinstance(value, str) else value


class _PairTable(Table):
    pair: str
    recipe: str | None = None
    init: str | None = None


class _SuiteTable(Table):
    """`recipe` is for the pairs that name none; `groups` are suites above it in the file, taken in whole."""

    title: str
    source: str = ""
    notes: str = ""
    recipe: str | None = None
    groups: tuple[str, ...] = ()
    pairs: tuple[Annotated[_PairTable, BeforeValidator(_row)], ...] = ()


class _SuiteFile(Table):
    board: Annotated[str, Field(pattern=r"^\w[\w.-]*$")]
    board_title: str = ""
    protocol: str | None = None
    suites: dict[str, _SuiteTable]


@cache
def suites() -> dict[str, Suite]:
    """Return the suites that come with cakdbench, by name.

    Raises:
        UsageError: a file is wrong; names it and the key.
    """
    by_name: dict[str, Suite] = {}
    for path in sorted(PAIRS_DIR.glob("*.toml")):
        if path.name not in NO_SUITES:
            for name, suite in suites_from_file(path).items():
                if name in by_name:
                    raise UsageError(f"{path}: suites.{name}: another file has a suite of this name")
                by_name[name] = suite
    return by_name


def suites_from_file(path: Path) -> dict[str, Suite]:
    """Return the suites of a file of one's own.

    Raises:
        UsageError: names the file and the key that is malformed, unknown, or names what does not exist.
    """
    file = checked(_SuiteFile, read_toml(path), path)
    by_name: dict[str, Suite] = {}
    for name, table in file.suites.items():
        members = [by_name[group] for group in _groups(path, name, table, by_name)]
        specs = [spec for suite in members for spec in suite.specs] + list(_specs(path, name, table))
        if not specs:
            raise UsageError(f"{path}: suites.{name}: has neither pairs nor groups")
        described = table.model_dump(include={"title", "source", "notes", "groups"})
        described |= file.model_dump(include={"board", "board_title", "protocol"})
        by_name[name] = Suite(name, specs=tuple(dict.fromkeys(specs)), **described)
    return by_name


def _groups(path: Path, name: str, table: _SuiteTable, above: dict[str, Suite]) -> tuple[str, ...]:
    for group in table.groups:
        if group not in above:
            raise inside(path, f"suites.{name}.groups", unknown("suite above it in the file", group, above))
    return table.groups


def _specs(path: Path, name: str, table: _SuiteTable) -> Iterator[PairSpec]:
    for number, row in enumerate(table.pairs, 1):
        key = f"suites.{name}.pairs[{number}]"
        recipe = row.recipe or table.recipe
        if recipe is None:
            raise UsageError(f"{path}: {key}: recipe: missing, here and at suites.{name}")
        try:
            pair = Pair.parse(row.pair)
            yield PairSpec(pair, _recipe_name(recipe, path.parent), check_start(pair, row.init))
        except UsageError as error:
            raise inside(path, key, error) from error


def check_start(pair: Pair, init: str | None) -> str | None:
    """Return the run that a pair's student starts from, in its one spelling.

    Raises:
        UsageError: it names no run of the same student.
    """
    run = init and named_run(init)
    if init and not run:
        raise UsageError(f"init: {init!r} is no run of a pair: write run:METHOD:PAIR")
    if run and run[1].student != pair.student:
        raise UsageError(f"the student {pair.student} cannot start from {init}: that is a {run[1].student}")
    return run_name(*run) if run else None


def link_spec(pair: Pair, spec: PairSpec) -> PairSpec:
    """Return how a run that `spec` names is trained: by its own pair's recipe if `spec` is, else by that of `spec`."""
    try:
        own = not spec.given and _spec_of(spec.pair).recipe == spec.recipe
    except UsageError:
        own = False
    return _spec_of(pair) if own else PairSpec(pair, spec.recipe, given=spec.given)


def _recipe_name(recipe: str, folder: Path) -> str:
    """Return the name of a recipe that exists; a path is taken from `folder`."""
    if recipe.endswith(".toml"):
        recipe = str(folder / Path(recipe).expanduser())
    load_recipe(recipe)
    return recipe


def resolve_pairs(text: str, recipe: str | None = None) -> list[PairSpec]:
    """Return the pairs that `--pairs` names, in its order, each pair with each recipe and start once.

    Args:
        text: comma list of suites, pairs, and paths (`.toml`) of suite files.
        recipe: replaces the recipe of every pair.

    Raises:
        UsageError: an unknown name (the nearest are given), or nothing named.
    """
    names = _names(text)
    if not names:
        raise UsageError(f"no pairs named; name suites ({', '.join(suites())}) or TEACHER>STUDENT@DATASET")
    chosen = _recipe_name(recipe, Path()) if recipe else None
    return list(dict.fromkeys(spec for name in names for spec in _named(name, chosen)))


def _names(text: str) -> list[str]:
    return [name for name in split_list(text) if name]


def own_suites(text: str) -> list[Suite]:
    """Return the suites of the files that `--pairs` names.

    Raises:
        UsageError: a file is wrong, or its board has a name that is taken.
    """
    paths = [Path(name).expanduser() for name in _names(text) if name.endswith(".toml")]
    return [suite for path in paths for suite in _own_suites(path)]


def _own_suites(path: Path) -> Iterable[Suite]:
    taken = NO_BOARDS | {suite.board.lower() for suite in suites().values()}
    for suite in (members := suites_from_file(path).values()):
        if suite.board.lower() in taken:
            raise UsageError(f"{path}: board: {suite.board!r} is a page of cakdbench; give yours another name")
    return members


def _named(name: str, recipe: str | None) -> list[PairSpec]:
    if ">" in name:
        pair = Pair.parse(name)
        return [PairSpec(pair, recipe, given=True) if recipe else _spec_of(pair)]
    members: Iterable[Suite]
    if name.endswith(".toml"):
        members = own_suites(name)
    elif name in suites():
        members = [suites()[name]]
    else:
        raise unknown("suite or pair", name, suites())
    specs = [spec for suite in members for spec in suite.specs]
    return [replace(spec, recipe=recipe, given=True) for spec in specs] if recipe else specs


def _spec_of(pair: Pair) -> PairSpec:
    """Return a single pair with its recipe: that of the suite it is in, else the default of its dataset and student."""
    whole = replace(pair, dataset=whole_name(pair.dataset))
    for suite in suites().values():
        for spec in suite.specs:
            if spec.pair == whole:
                return replace(spec, pair=pair)
    return PairSpec(pair, default_recipe(whole.dataset, model_kind(pair.student)).name)
