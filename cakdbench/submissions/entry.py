"""The files of a bundle: what a submitted run, and a number measured with other code, look like."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, TypeAdapter

from cakdbench.records import Record

FORMAT: Literal[1] = 1
"""Of the entry files: raise it when a field changes its meaning."""

Url = Annotated[
    str, StringConstraints(pattern=r"^https://[A-Za-z0-9.\-]+(/[A-Za-z0-9._~%/?#=&+:@,;\-]*)?$", max_length=300)
]
Line = Annotated[str, StringConstraints(pattern=r"^[^<>|`\\\x00-\x1f\x7f]+$", min_length=1, max_length=200)]
"""One line of text that is safe on a Markdown page."""

Percent = Annotated[float, Field(ge=0, le=100)]


class Outside(BaseModel):
    """A table of a file that others wrote: unknown fields and values of other types are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Entry(Outside):
    """A run of this code: its record, unchanged, and who submits it."""

    format: Literal[1] = FORMAT
    record: Record
    submitted_by: Line
    paper: Url | None = None
    code: Url | None = None

    @property
    def key(self) -> str:
        return self.record.key


class ExternalEntry(Outside):
    """A number measured with other code: never re-scored, never ranked, shown as external.

    Attributes:
        method: its name, as the source writes it.
        pair: TEACHER>STUDENT@DATASET.
        accuracy: top-1 in percent, the mean if there are several seeds.
        seeds: how many runs it is the mean of; None if the source does not say.
        differences: from the protocol of the pair's recipe, one a line.
        source: where the number is printed.
    """

    format: Literal[1] = FORMAT
    kind: Literal["external"] = "external"
    method: Line
    pair: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.:/\-]+>[A-Za-z0-9_.:/\-]+@[A-Za-z0-9_.:/\-]+$")]
    metric: Literal["last epoch", "best epoch", "not said"]
    accuracy: Percent
    deviation: Percent | None = None
    seeds: Annotated[int, Field(ge=1, le=1000)] | None = None
    differences: Annotated[tuple[Line, ...], Field(max_length=30)]
    source: Url
    code: Url | None = None
    submitted_by: Line


def entry_schema() -> dict[str, Any]:
    """Return the JSON Schema of both kinds of entry, as it lies in `leaderboards/results/entry.schema.json`."""
    schema = TypeAdapter(Entry | ExternalEntry).json_schema()
    title = "An entry of the leaderboards: a run of cakdbench, or an external number"
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": title, **schema}


def entry_bytes(entry: Entry | ExternalEntry) -> bytes:
    """Return the content of the file."""
    return (entry.model_dump_json(indent=1) + "\n").encode()
