"""The commands about datasets: data check, data stats."""

from typing import Annotated

import typer

from cakdbench.cli.options import BadImages, DataDir, DatasetFiles, OnBadImage, errors, say

app = typer.Typer(no_args_is_help=True, help="Look into datasets.")


@app.command()
def check(
    name: Annotated[str, typer.Argument(help="A dataset, as in cifar100 or timm:folder/NAME.")],
    full: Annotated[
        bool, typer.Option("--full", help="Decode every image, and hash the content of every file.")
    ] = False,
    data_dir: DataDir = None,
    datasets: DatasetFiles = [],
) -> None:
    """Open a dataset; print its classes, sizes and fingerprint, and which images cannot be read."""
    import numpy as np

    from cakdbench.data.datasets import load_dataset
    from cakdbench.data.shipped import labels_sha256
    from cakdbench.data.splits import content_hash
    from cakdbench.data.unreadable import unreadable

    data = load_dataset(name, data_dir)
    classes = ", ".join(data.class_names)
    lines = [f"{len(data.train)} training and {len(data.test)} test images of {data.num_classes} classes: {classes}"]
    lines += [f"fingerprint {data.fingerprint}", f"test labels {labels_sha256(np.asarray(data.test.labels))}"]
    lines += [f"content {content_hash(data)}"] * full
    bad = [reason for split in (data.train, data.test) * full for reason in unreadable(split).values()]
    lines += [f"images that cannot be read, counted above: {len(bad)}"] * bool(bad)
    for line in lines:
        say(line)
    for reason in bad:
        say(reason, errors)
    raise typer.Exit(1 if bad else 0)


@app.command()
def stats(
    name: Annotated[str, typer.Argument(help="A dataset, as in cifar100 or timm:folder/NAME.")],
    data_dir: DataDir = None,
    datasets: DatasetFiles = [],
    on_bad_image: BadImages = OnBadImage.refuse,
) -> None:
    """Compute mean and deviation of the training images' pixels; print them as a line for a TOML file."""
    from cakdbench.data.datasets import load_dataset
    from cakdbench.data.statistics import measure

    measured = measure(load_dataset(name, data_dir, on_bad_image=on_bad_image.value).train)
    mean, std = (", ".join(f"{value:.4f}" for value in values) for values in measured.pair)
    line = f"statistics = {{mean = [{mean}], std = [{std}]}}"
    say(line)
