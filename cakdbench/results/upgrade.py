"""What a run of format 1, or of a method now built in, is called today."""

from typing import Any

from cakdbench import labels
from cakdbench.grid.pairs import Pair
from cakdbench.grid.plan import pair_info
from cakdbench.method import Method
from cakdbench.models.info import ModelInfo
from cakdbench.recipes import identity_of
from cakdbench.records import Identity, MethodIdentity, Record
from cakdbench.registry import all_settings, canonical_label, config_identity, get_method, resolve_config
from cakdbench.source_hash import is_built_in, known_sources, source_hash
from cakdbench.store import run_key
from cakdbench.utils.errors import CakdError, UsageError


def adopted(identity: Identity) -> Identity:
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


def upgraded(record: dict[str, Any]) -> Record:
    """Return a record of format 1 in the present format: another key and other names, the same run."""
    identity = identity_now(record["identity"])
    source = record["identity"]["method"]["source"]
    made = {"key": run_key(identity), "identity": identity, "label": label_now(record["identity"])}
    return Record(**record | made, method_source=source)


def identity_now(old: dict[str, Any]) -> Identity:
    fields = {name: old[name] for name in ("student", "teacher", "dataset", "precision", "seed")}
    return Identity(
        engine_version=old["schema_version"], method=_method(old), recipe=identity_of(old["recipe"]), **fields
    )


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


def label_now(old: dict[str, Any]) -> str:
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
