"""The README of an exported student: what it is, how good, how it was made, how to load it."""

from cakdbench.records import DatasetIdentity
from cakdbench.students.student import Student

CARD = """\
---
license: {license}
library_name: timm
pipeline_tag: image-classification
tags:
- image-classification
- timm
- knowledge-distillation
---
# {model} on {dataset}, by {label}

A {model} ({parameters:,} parameters, {size} px) for the {classes} classes of {dataset}, trained with cakdbench.

| | |
|---|---|
{facts}

## Load it

```python
{code}
```

Images are resized to {resize} px (shorter edge, {interpolation}), cropped to the central {size} px, scaled to [0, 1]
and normalised with mean {mean} and standard deviation {std}.
"""
PLAIN = """\
import timm

net = timm.create_model("local-dir:PATH_OF_THIS_FOLDER", pretrained=True).eval()
data = timm.data.resolve_model_data_config(net)
transform = timm.data.create_transform(**data, is_training=False)"""
OWN = """\
# Plain timm cannot make this network; cakdbench can.
from cakdbench.models.catalog import create
from safetensors.torch import load_file

net = create("{name}", num_classes={classes}, image_size={size}).eval()
net.load_state_dict(load_file("model.safetensors"))"""


def model_card(student: Student, license: str, plain_timm: bool) -> str:
    """Return the text of a README.md in the form of a model card.

    Args:
        plain_timm: timm alone can load the folder.
    """
    facts, recipe, identity = student.facts, student.recipe, student.record.identity
    size, crop = recipe.image_size, recipe.evaluation.crop_pct
    code = PLAIN if plain_timm else OWN.format(name=identity.student, classes=len(facts.class_names), size=size)
    return CARD.format(
        license=license,
        model=identity.student,
        dataset=identity.dataset.name,
        label=student.record.label,
        parameters=student.record.student_parameters,
        size=size,
        classes=len(facts.class_names),
        facts="\n".join(f"| {name} | {text} |" for name, text in _facts(student).items()),
        code=code,
        resize=int(size / crop),
        interpolation=recipe.evaluation.interpolation,
        mean=_numbers(facts.mean),
        std=_numbers(facts.std),
    )


def _facts(student: Student) -> dict[str, str]:
    record = student.record
    identity, conditions, result = record.identity, record.conditions, record.result
    top1 = "unknown" if student.top1 is None else f"{student.top1:.2f} %"
    facts = {"top-1 on the test set": f"{top1}, of the averaged weights (EMA)" if student.averaged else top1}
    if not student.averaged and len(student.facts.class_names) > 5:
        facts["top-5 on the test set"] = f"{result.top5:.2f} %"
    return facts | {
        "method": record.label,
        "teacher": _teacher(student),
        "dataset": _dataset(identity.dataset),
        "recipe": f"{record.recipe_name}, {student.recipe.epochs} epochs, seed {identity.seed}, {identity.precision}",
        "computed on": f"{conditions.device}, {', '.join(f'{k} {v}' for k, v in sorted(conditions.versions.items()))}",
        "finished": conditions.finished,
        "run": record.key,
    }


def _dataset(data: DatasetIdentity) -> str:
    left_out = f"; unreadable images left out: {data.skipped}" if data.skipped else ""
    return f"{data.name} (fingerprint {data.fingerprint[:16]}{left_out})"


def _teacher(student: Student) -> str:
    teacher, facts = student.record.identity.teacher, student.record.teacher
    if teacher is None:
        return "none"
    return f"{teacher.model}" + (f", {facts.measured:.2f} %" if facts else "") + f" (sha256 {teacher.sha256[:16]})"


def _numbers(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:.4g}" for value in values)
