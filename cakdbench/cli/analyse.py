"""The commands that look into trained models: analyse similarity, features, attention, agreement."""

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cakdbench.cli.methods import load_files
from cakdbench.cli.options import (
    TEACHERS,
    BadImages,
    DataDir,
    DatasetFiles,
    MethodFiles,
    ModelFiles,
    OnBadImage,
    StoreDir,
    TeacherDir,
    say,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pandas as pd
    from matplotlib.figure import Figure
    from torch import Tensor

    from cakdbench.analysis.networks import Gallery, NamedNetwork

app = typer.Typer(no_args_is_help=True, help="Look into trained models: numbers as CSV, pictures as PNG and SVG.")


class Measure(StrEnum):
    """Choose how layers are compared."""

    cka = "cka"
    map = "map"
    projected = "projected"


Networks = Annotated[
    list[str],
    typer.Argument(help="Finished runs (key, start of one, folder, run:METHOD:PAIR) and teachers as MODEL@DATASET."),
]
To = Annotated[Path, typer.Option("--to", help="The folder the files are written to.")]
Images = Annotated[int, typer.Option(min=1, help="Test images, evenly picked.")]


STRENGTH = "mean absolute feature (1: the greatest of the column)"
RECEIVED = "attention received (1: the greatest of the column)"


@app.command()
def similarity(
    networks: Networks,
    to: To = Path("analysis"),
    images: Images = 512,
    measure: Annotated[
        Measure, typer.Option(help="Linear CKA; cosine after a fitted linear map, or as a run's own method projects.")
    ] = Measure.cka,
    method_file: MethodFiles = [],
    model_file: ModelFiles = [],
    store: StoreDir = Path("runs"),
    teacher_dir: TeacherDir = TEACHERS,
    data_dir: DataDir = None,
    datasets: DatasetFiles = [],
    on_bad_image: BadImages = OnBadImage.refuse,
) -> None:
    """Compare the stages and final features of the first network with those of each other one, or with its own."""
    from cakdbench.analysis.figures import matrix_figure
    from cakdbench.analysis.similarity import similarity as compare

    gallery = _gallery(networks, model_file, store, teacher_dir, data_dir, on_bad_image, method_file)
    if measure is Measure.projected:
        return _write_projected(gallery, images, to / "similarity-projected")
    first, *others = gallery.networks
    what = "linear CKA" if measure is Measure.cka else "cosine after a fitted linear map"
    for number, second in enumerate(others or [first], 1):
        frame = compare(first.model, second.model, lambda: gallery.images(images), measure.value)
        title = f"{what} of features; {gallery.counted(images)}"
        figure = matrix_figure(frame, title, (first.name, second.name), what, (0.0, 1.0))
        _write(to / f"similarity-{measure.value}-{number}", frame.reset_index(), figure)


@app.command()
def features(
    networks: Networks,
    to: To = Path("analysis"),
    images: Images = 6,
    groups: Annotated[int, typer.Option(min=1, help="Runs of neighbouring channels, each with its own map.")] = 1,
    model_file: ModelFiles = [],
    store: StoreDir = Path("runs"),
    teacher_dir: TeacherDir = TEACHERS,
    data_dir: DataDir = None,
    datasets: DatasetFiles = [],
    on_bad_image: BadImages = OnBadImage.refuse,
) -> None:
    """Draw how strong the features of each stage are where in the image."""
    from cakdbench.analysis.maps import feature_maps

    gallery = _gallery(networks, model_file, store, teacher_dir, data_dir, on_bad_image)
    seen = gallery.seen(images)
    for number, network in enumerate(gallery.networks, 1):
        stages = feature_maps(network.model, seen, groups)
        maps = {
            f"{name}, group {group + 1}" if groups > 1 else name: values[:, group]
            for name, values in stages.items()
            for group in range(groups)
        }
        _write_maps(to / f"features-{number}", gallery, seen, maps, network.name, STRENGTH)


@app.command()
def attention(
    networks: Networks,
    to: To = Path("analysis"),
    images: Images = 6,
    method_file: MethodFiles = [],
    model_file: ModelFiles = [],
    store: StoreDir = Path("runs"),
    teacher_dir: TeacherDir = TEACHERS,
    data_dir: DataDir = None,
    datasets: DatasetFiles = [],
    on_bad_image: BadImages = OnBadImage.refuse,
) -> None:
    """Draw where the last attention of each network looks, and that of a run's method itself, as FOFA's of regions."""
    from cakdbench.analysis.maps import attention_maps

    gallery = _gallery(networks, model_file, store, teacher_dir, data_dir, on_bad_image, method_file)
    seen = gallery.seen(images)
    for told in _not_kept(gallery):
        say(told)
    own = [_write_own(to / f"attention-own-{number}", gallery, network, seen) for number, network in _kept(gallery)]
    looking = [network for network in gallery.networks if network.model.attention or not any(own)]
    if maps := {network.name: attention_maps(network.model, seen) for network in looking}:
        _write_maps(to / "attention", gallery, seen, maps, "attention of the last block", RECEIVED)


@app.command()
def agreement(
    results: Annotated[list[Path], typer.Argument(help="Stores and results folders.")],
    pair: Annotated[str, typer.Option("--pair", help="TEACHER>STUDENT@DATASET; chains as `run` takes them.")],
    recipe: Annotated[str | None, typer.Option(help="Of the runs, where they have several.")] = None,
    precision: Annotated[str | None, typer.Option(help="Of the runs, where they have several.")] = None,
    to: To = Path("analysis"),
    data_dir: DataDir = None,
    datasets: DatasetFiles = [],
) -> None:
    """Compare the predictions of all methods of a pair: how often they agree, how many errors they share."""
    from cakdbench.analysis.agreement import agreement as compare
    from cakdbench.analysis.figures import matrix_figure
    from cakdbench.api import load_results

    frame = compare(load_results(*results, data_dir=data_dir), pair, data_dir, recipe, precision)
    for value, what in (("agreement", "equal answers"), ("shared_errors", "errors in common")):
        table = frame.pivot(index="first", columns="second", values=value)
        order = list(dict.fromkeys(frame["first"]))
        figure = matrix_figure(
            table.loc[order, order], f"{what} on {pair}; on the diagonal: two seeds of a method", ("", ""), f"{what}, %"
        )
        _write(to / f"agreement-{value}", frame if value == "agreement" else None, figure)


def _gallery(
    names: list[str],
    model_files: list[Path],
    store: Path,
    teacher_dir: Path,
    data_dir: Path | None,
    on_bad_image: OnBadImage,
    method_files: Sequence[Path] = (),
) -> "Gallery":
    from cakdbench.analysis.networks import open_gallery
    from cakdbench.store import Store

    load_files(list(method_files), model_files)
    return open_gallery(names, Store(store), teacher_dir, data_dir, on_bad_image=on_bad_image.value)


def _kept(gallery: "Gallery") -> "Iterator[tuple[int, NamedNetwork]]":
    """Yield the runs whose method has attention of its own, and kept what was trained beside the student."""
    for number, network in enumerate(gallery.networks, 1):
        if _attends(network) and network.run and network.run.modules.is_file():
            yield number, network


def _not_kept(gallery: "Gallery") -> "Iterator[str]":
    """Yield of which runs the method's own attention cannot be drawn, since its modules were not kept."""
    for network in gallery.networks:
        if _attends(network) and network.run and not network.run.modules.is_file():
            anew, method = f"remove {network.run.path} and run it with --keep modules", network.run.identity().method.id
            yield f"{network.name}: not the attention of {method} itself, whose modules were not kept: {anew}"


def _attends(network: "NamedNetwork") -> bool:
    """Return True for a run whose method may have attention of its own."""
    from cakdbench.method import Method
    from cakdbench.registry import get_method

    return network.run is not None and get_method(network.run.identity().method.id).attended is not Method.attended


def _write_own(stem: Path, gallery: "Gallery", network: "NamedNetwork", seen: "Tensor") -> bool:
    """Draw the attention of a run's method itself; return False if it has none."""
    from torch import no_grad

    from cakdbench.analysis.figures import matrix_figure
    from cakdbench.analysis.maps import attention_flow, received_maps

    with no_grad():
        attention = gallery.method(network).attended(seen)
    if attention is None:
        return False
    _write_maps(stem, gallery, seen, received_maps(attention), f"{network.name}: attention of its method", RECEIVED)
    flow, what = attention_flow(attention), "share of the attention"
    title = f"{network.name}: attention of its method"
    figure = matrix_figure(flow, title, ("the places of", "look at those of"), what, (0.0, 1.0))
    _write(stem.with_name(f"{stem.name}-flow"), flow.reset_index(), figure)
    return True


def _write_projected(gallery: "Gallery", images: int, stem: Path) -> None:
    """Write how similar the features of each run's student are to its teacher's, as its method projects them."""
    import pandas as pd

    from cakdbench.analysis.figures import matrix_figure
    from cakdbench.analysis.similarity import projected_similarity

    frames = {}
    for network in gallery.networks:
        frames[network.name] = projected_similarity(gallery.method(network), lambda: gallery.images(images))
    frame = pd.concat(frames, names=["run"])
    cosines = frame["cosine"].unstack("run", sort=False)
    title = f"student's features as its method projects them, and the teacher's; {gallery.counted(images)}"
    figure = matrix_figure(cosines, title, ("space", "run"), "mean cosine, both centred", (0.0, 1.0))
    _write(stem, frame.reset_index(), figure)


def _write_maps(
    stem: Path, gallery: "Gallery", seen: "Tensor", maps: dict[str, "Tensor"], title: str, unit: str
) -> None:
    import numpy as np
    import pandas as pd

    from cakdbench.analysis.figures import maps_figure

    rows = []
    for name, values in maps.items():
        for (image, y, x), value in np.ndenumerate(values.numpy()):
            rows.append((name, image, y, x, float(value)))
    frame = pd.DataFrame(rows, columns=["map", "image", "row", "column", "value"])
    _write(stem, frame, maps_figure(gallery.pictures(seen), maps, title, unit))


def _write(stem: Path, frame: "pd.DataFrame | None", figure: "Figure") -> None:
    """Write a figure, and the numbers it shows as CSV; say which files."""
    from cakdbench.analysis.figures import save

    paths = save(figure, stem)
    if frame is not None:
        path = stem.with_name(f"{stem.name}.csv")
        frame.to_csv(path, index=False)
        paths.append(path)
    for path in paths:
        say(f"written: {path}")
