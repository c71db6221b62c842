"""Carry finished runs over to their present keys, without training anything again.

Format 1 had every setting, the variant's name and the hash of the method's source in the key, so that a new setting or
a renamed function voided all results. A method of a file, known by the hash of its source, may have become a built-in
one, known by its version. What a run computed, its weights and its predictions are not touched here.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from cakdbench import labels
from cakdbench.grid.plan import pair_info
from cakdbench.grid.suites import Pair
from cakdbench.method import Method
from cakdbench.models.info import ModelInfo
from cakdbench.recipes import identity_of
from cakdbench.records import Identity, MethodIdentity, Record
from cakdbench.registry import all_settings, canonical_label, config_identity, get_method, resolve_config
from cakdbench.source_hash import is_built_in, known_sources, source_hash
from cakdbench.store import RunFolder, canonical, run_key, write_atomic
from cakdbench.submissions.bundle import SCHEMA_FILE
from cakdbench.submissions.status import Verdict, read_verdicts, write_verdicts
from cakdbench.submissions.submit import schema_bytes
from cakdbench.utils.errors import CakdError, StoreError, UsageError

OLD = "schema_version"
"""A field of identities that only format 1 has."""
DAMAGE = (ValidationError, KeyError, TypeError, AttributeError)
"""What reading a file of another shape than it should have ends in."""


@dataclass(frozen=True)
class Migrated:
    """The new key of a run, or None and the reason why it was left as it is."""

    old: str
    new: str | None
    reason: str = ""


def migrate(root: Path) -> Iterator[Migrated]:
    """Rewrite what is of format 1 in a store or a results folder; what is of the present format is passed over.

    Raises:
        UsageError: there is no such folder.
        StoreError: a file cannot be written.
    """
    if not root.is_dir():
        raise UsageError(f"no folder at {root}: name a store, as in runs, or a results folder")
    for path in sorted(path.parent for path in root.glob("*/identity.json")):
        try:
            yield from _run(RunFolder(path))
        except (*DAMAGE, StoreError) as error:
            yield Migrated(path.name, None, f"cannot be carried over ({_first_line(error)}): mend or remove {path}")
    yield from _entries(root)


def _entries(root: Path) -> Iterator[Migrated]:
    """Rewrite the entries of a results folder, then the maintainers' list, which names them by key and hash."""
    verdicts = {verdict.key: verdict for verdict in read_verdicts(root).entries}
    moved: dict[str, Verdict] = {}
    for path in sorted(root.glob("*/*.json")):
        if not (content := _old_entry(path)):
            continue
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        try:
            new = _entry(path, content)
        except DAMAGE as error:
            yield Migrated(path.stem, None, f"cannot be carried over ({_first_line(error)}): mend or remove {path}")
            continue
        if path.stem in verdicts and verdicts[path.stem].sha256 == sha256:
            accepted = hashlib.sha256(new.read_bytes()).hexdigest()
            moved[path.stem] = verdicts[path.stem].model_copy(update={"key": new.stem, "sha256": accepted})
        yield Migrated(path.stem, new.stem)
    if moved:
        listed = tuple(moved.get(key, verdict) for key, verdict in verdicts.items())
        write_verdicts(root, read_verdicts(root).model_copy(update={"entries": listed}))
    if (root / SCHEMA_FILE).exists():
        write_atomic(root / SCHEMA_FILE, schema_bytes())


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"


def _run(folder: RunFolder) -> Iterator[Migrated]:
    """Rewrite a run's files, then rename its folder; one that was killed in between is taken up by the next."""
    identity = _json(folder.path / "identity.json")
    if not identity:
        yield Migrated(folder.key, None, f"{folder.path / 'identity.json'} is damaged: remove the folder")
        return
    if OLD not in identity and folder.key == run_key(_adopted(Identity.model_validate(identity))):
        return
    if not folder.acquire():
        yield Migrated(folder.key, None, "a process works on it: wait for it, or stop it")
        return
    try:
        if OLD in identity:
            _rewrite(folder, identity)
        _adopt(folder)
        key = run_key(folder.identity())
        if (folder.path.parent / key).exists():
            yield Migrated(folder.key, None, f"{key} is there already: remove one of the two")
            return
        _rename(folder.path, folder.path.parent / key)
        yield Migrated(folder.key, key)
    finally:
        folder.release()


def _adopt(folder: RunFolder) -> None:
    """Give a run of a method that has become a built-in one its version in place of its source."""
    adopted = _adopted(folder.identity())
    if folder.is_done:
        _write_record(folder, folder.record().model_copy(update={"identity": adopted, "key": run_key(adopted)}))
    write_atomic(folder.path / "identity.json", canonical(adopted).encode())


def _adopted(identity: Identity) -> Identity:
    """Return the identity with the version of a built-in method whose code is the one the run was made with."""
    try:
        method = get_method(identity.method.id)
    except UsageError:
        return identity
    sources = {source_hash(method), source_hash(method, by_version=True)} if is_built_in(method) else set()
    if identity.method.source not in sources:
        return identity
    code = identity.method.model_copy(update={"source": None, "version": method.version})
    return identity.model_copy(update={"method": code})


def _rewrite(folder: RunFolder, identity: dict[str, Any]) -> None:
    old = _json(folder.path / "record.json")
    if OLD in old.get("identity", {}):
        _write_record(folder, upgraded(old))
    folder.open(_identity(identity), _label(identity), old.get("recipe_name", "?"))


def _write_record(folder: RunFolder, record: Record) -> None:
    write_atomic(folder.path / "record.json", (record.model_dump_json(indent=1) + "\n").encode())


def _old_entry(path: Path) -> dict[str, Any] | None:
    content = _json(path)
    record = content.get("record") if isinstance(content, dict) else None
    identity = record.get("identity") if isinstance(record, dict) else None
    return content if isinstance(identity, dict) and OLD in identity else None


def _entry(path: Path, content: dict[str, Any]) -> Path:
    record = upgraded(content["record"])
    new = path.with_name(f"{record.key}.json")
    text = json.dumps(content | {"record": record.model_dump(mode="json")}, indent=1, ensure_ascii=False)
    with contextlib.suppress(FileNotFoundError):  # a migration that was killed has moved it
        _rename(path.with_suffix(".npy"), new.with_suffix(".npy"))
    write_atomic(new, (text + "\n").encode())
    path.unlink()
    return new


def _rename(old: Path, new: Path) -> None:
    try:
        os.rename(old, new)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise StoreError(f"cannot rename {old}: {error.strerror}; mend the permissions and try again") from error


def upgraded(record: dict[str, Any]) -> Record:
    """Return a record of format 1 in the present format: another key and other names, the same run."""
    identity = _identity(record["identity"])
    source = record["identity"]["method"]["source"]
    made = {"key": run_key(identity), "identity": identity, "label": _label(record["identity"])}
    return Record(**record | made, method_source=source)


def _identity(old: dict[str, Any]) -> Identity:
    fields = {name: old[name] for name in ("student", "teacher", "dataset", "precision", "seed")}
    return Identity(engine_version=old[OLD], method=_method(old), recipe=identity_of(old["recipe"]), **fields)


def _method(old: dict[str, Any]) -> MethodIdentity:
    """Return the method's part; a source that no version of it had stays what identifies it."""
    id, source, settings = (old["method"][name] for name in ("id", "source", "config"))
    try:
        config = _config(old)
    except CakdError:  # the method is not installed, or its settings have changed
        return MethodIdentity(id=id, source=source, config=settings)
    if is_built_in(get_method(id)) and source in known_sources(id, 1):
        return MethodIdentity(id=id, version=1, config=config_identity(config))
    return MethodIdentity(id=id, source=source, config=config_identity(config))


def _label(old: dict[str, Any]) -> str:
    try:
        return canonical_label(get_method(old["method"]["id"]), _config(old), *_infos(old), old["dataset"]["name"])
    except CakdError:
        return labels.label(old["method"]["id"], old["method"]["variant"])


def _config(old: dict[str, Any]) -> Method.Config:
    method = get_method(old["method"]["id"])
    settings = all_settings(method, old["method"]["config"])  # those added since are off in it
    return resolve_config(method, None, *_infos(old), old["dataset"]["name"], settings)


def _infos(old: dict[str, Any]) -> tuple[ModelInfo, ModelInfo]:
    teacher = (old["teacher"] or {"model": old["student"]})["model"]
    recipe = old["recipe"]
    return pair_info(Pair(teacher, old["student"], old["dataset"]["name"]), recipe["image_size"], recipe["split"])


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
