"""Carry finished runs over to their present keys, without training anything again.

Format 1 had every setting, the variant's name and the hash of the method's source in the key, so that a new setting or
a renamed function voided all results. A method of a file, known by the hash of its source, may have become a built-in
one, known by its version. What a run computed, its weights and its predictions are not touched here.

`results.upgrade`, which knows methods and models and waits for torch, is imported where there is something to do.
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

from cakdbench.records import Identity
from cakdbench.store import RunFolder, canonical, run_key, write_atomic
from cakdbench.submissions.bundle import SCHEMA_FILE
from cakdbench.submissions.status import Verdict, sure_verdicts, write_verdicts
from cakdbench.utils.errors import StoreError, UsageError

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
    verdicts = {verdict.key: verdict for verdict in sure_verdicts(root).entries}
    moved: dict[str, Verdict] = {}
    changed = False
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
        changed = True
        yield Migrated(path.stem, new.stem)
    if moved:
        listed = tuple(moved.get(key, verdict) for key, verdict in verdicts.items())
        write_verdicts(root, sure_verdicts(root).model_copy(update={"entries": listed}))
    if changed and (root / SCHEMA_FILE).exists():
        from cakdbench.submissions.submit import schema_bytes

        write_atomic(root / SCHEMA_FILE, schema_bytes())


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"


def _run(folder: RunFolder) -> Iterator[Migrated]:
    """Rewrite a run's files, then rename its folder; one that was killed in between is taken up by the next."""
    identity = _json(folder.path / "identity.json")
    if not identity:
        yield Migrated(folder.key, None, f"{folder.path / 'identity.json'} is damaged: remove the folder")
        return
    if OLD not in identity and _is_current(folder, Identity.model_validate(identity)):
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


def _is_current(folder: RunFolder, identity: Identity) -> bool:
    """Return True for a run under its present key; only one known by its source may be of a method now built in."""
    if identity.method.source is None:
        return folder.key == run_key(identity)
    from cakdbench.results.upgrade import adopted

    return folder.key == run_key(adopted(identity))


def _adopt(folder: RunFolder) -> None:
    """Give a run of a method that has become a built-in one its version in place of its source."""
    from cakdbench.results import upgrade

    adopted = upgrade.adopted(folder.identity())
    if folder.is_done:
        folder.rewrite(folder.record().model_copy(update={"identity": adopted, "key": run_key(adopted)}))
    write_atomic(folder.path / "identity.json", canonical(adopted).encode())


def _rewrite(folder: RunFolder, identity: dict[str, Any]) -> None:
    from cakdbench.results.upgrade import identity_now, label_now, upgraded

    old = _json(folder.path / "record.json")
    if OLD in old.get("identity", {}):
        folder.rewrite(upgraded(old))
    folder.open(identity_now(identity), label_now(identity), old.get("recipe_name", "?"))


def _old_entry(path: Path) -> dict[str, Any] | None:
    content = _json(path)
    record = content.get("record") if isinstance(content, dict) else None
    identity = record.get("identity") if isinstance(record, dict) else None
    return content if isinstance(identity, dict) and OLD in identity else None


def _entry(path: Path, content: dict[str, Any]) -> Path:
    from cakdbench.results.upgrade import upgraded

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


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
