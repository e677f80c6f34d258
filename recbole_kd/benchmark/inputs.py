"""Vectors that a system itself reads: item texts and profiles, named in YAML and built once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from recbole_kd.benchmark import pretraining, properties, rooms
from recbole_kd.benchmark.locks import wait_lock
from recbole_kd.benchmark.marked_yaml import MarkedDict
from recbole_kd.benchmark.spec import ITEMS_SOURCE, CellSpec, InputsSpec, VariantSpec
from recbole_kd.benchmark.validate import check_keys, validated
from recbole_kd.errors import SpecError
from recbole_kd.strict import Strict
from recbole_kd.training.spec import PretrainSpec, StudentSpec, SystemSpec

if TYPE_CHECKING:
    from recbole_kd.data.spec import DatasetSpec
    from recbole_kd.data.types import Split
    from recbole_kd.models.side import SideInputs

ITEMS, USERS, ATTRIBUTES, LANGUAGE = "items", "users", "attributes", "language"
PRETRAIN = pretraining.PRETRAIN
# Raised when the same texts would give other attributes.
_ATTRIBUTES = {"format": 1}


class SystemFile(Strict):
    """``properties/system/<name>.yaml``: the one place of a system's defaults."""

    system: str
    backbones: list[str]
    inputs: InputsSpec | None
    params: dict[str, Any]
    pretrain: PretrainSpec | None = Field(None, description="only of systems that can be pre-trained")


def system_file(name: str, asked_at: object = None) -> SystemFile:
    """Read the defaults of a system.

    Raises
    ------
    SpecError
        No such system, or a bad file.
    """
    return validated(SystemFile, properties.load("system", name, asked_at), f"system '{name}'")


def system_of(variant: VariantSpec, raw: MarkedDict) -> SystemSpec | None:
    """System of a variant with its parameters laid over the defaults.

    Raises
    ------
    SpecError
        Unknown system or parameter; parameters or inputs without a system.
    """
    if variant.system is None:
        if variant.params is not None:
            raise SpecError(f"{raw.where('params')}: 'params' belong to a 'system', and none is named")
        return None
    file = system_file(variant.system, raw.where("system"))
    given = raw.get("params")
    if isinstance(given, MarkedDict):
        check_keys(given, file.params, f"{variant.system} params key")
    return SystemSpec(name=file.system, params={**file.params, **(variant.params or {})})


def inputs_of(
    variant: VariantSpec, of_model: InputsSpec | None, domain: str, asked_at: object
) -> dict[str, Any] | None:
    """Inputs of a cell as plain data: of the model's or system's file, with the variant's laid over.

    Raises
    ------
    SpecError
        Unknown items or profile file, or inputs for a model that reads none.
    """
    base = of_model if variant.system is None else system_file(variant.system, asked_at).inputs
    given = variant.inputs
    if base is None:
        if given is not None:
            raise SpecError(f"{asked_at}: 'inputs' are given, but neither model nor system reads any")
        return None
    names = {**base.canonical(), **({} if given is None else given.model_dump(exclude_unset=True))}
    over = names.pop("profile")
    for key, value in names.items():
        if (value is None) != (getattr(base, key) is None):
            raise SpecError(f"{asked_at}: inputs.{key} must be {'left out' if value else 'named'} here")
    result: dict[str, Any] = {}
    if names["items"] is not None:
        result[ITEMS] = item_spec(names["items"], asked_at)
        if weights := rooms.weights_source(result[ITEMS], asked_at):
            result[ITEMS_SOURCE] = weights
    if names["teacher"] is not None:
        found = rooms.teacher(VariantSpec(teacher=names["teacher"], profile=over), domain, asked_at)
        assert found is not None
        result[USERS] = {"spec": found.canonical, "source": found.source}
    if names["attributes"]:
        result[ATTRIBUTES] = _ATTRIBUTES
    return result


def with_pretraining(
    inputs: dict[str, Any] | None,
    variant: VariantSpec,
    raw: MarkedDict,
    of_model: PretrainSpec | None,
    dataset: DatasetSpec,
    source: dict[str, str],
    student: StudentSpec,
    overrides: Sequence[MarkedDict] = (),
) -> dict[str, Any] | None:
    """Inputs of a cell with what its system or model was pre-trained on, if it was.

    ``overrides`` are those of the experiment that apply to the cell; the variant's own values come last.

    Raises
    ------
    SpecError
        Unknown key or dataset, or ``pretrain`` where nothing is pre-trained.
    """
    base = of_model if variant.system is None else system_file(variant.system, raw.mark).pretrain
    given, mark = raw.get("pretrain"), raw.where("pretrain")
    if base is None:
        if given is not None:
            raise SpecError(f"{mark}: 'pretrain' is given, but neither model nor system is pre-trained")
        return inputs
    for layer in (*overrides, raw):
        base = pretraining.pretrain_spec(base, layer.get("pretrain"), layer.where("pretrain"))
    found = pretraining.resolved(base, student, inputs or {}, dataset, source, mark)
    return inputs if found is None else {**(inputs or {}), PRETRAIN: found}


def item_spec(name: str, asked_at: object = None) -> dict[str, Any]:
    """Canonical ItemVectorSpec of ``properties/items/<name>.yaml``."""
    from profiles.item_vectors import ItemVectorSpec, check_item_names

    data = properties.load("items", name, asked_at)
    spec = validated(ItemVectorSpec, data, f"items '{name}'")
    return check_item_names(spec, str(asked_at or f"items '{name}'")).canonical()


def build_inputs(results: Path, cell: CellSpec, split: Split) -> dict[str, str]:
    """Make (or find) the files of a cell's inputs.

    Returns
    -------
    dict
        ``items``, ``users``, ``attributes``, ``language`` (or a name on the hub) and ``pretrain`` -> path, as
        far as the cell reads them.
    """
    files: dict[str, str] = {}
    wanted = cell.inputs or {}
    rooms.check_weights(cell)
    if ITEMS in wanted:
        files[ITEMS] = str(build_items(results, cell, split).resolve())
    if USERS in wanted:
        path, _ = rooms.teacher_table(results, as_taught(cell), split)
        files[USERS] = str(path.resolve())
    if ATTRIBUTES in wanted:
        files[ATTRIBUTES] = str(build_attributes(results, cell, split).resolve())
        files[LANGUAGE] = language_encoder(cell.student)
    if PRETRAIN in wanted:
        files[PRETRAIN] = str(pretraining.build(results, cell).resolve())
    return files


def as_taught(cell: CellSpec) -> CellSpec:
    """The cell as if the profiles that its system reads were its teacher."""
    users = (cell.inputs or {})[USERS]
    return cell.model_copy(
        update={"teacher": users["spec"], "teacher_source": users["source"], "teacher_file": None}
    )


def language_encoder(student: StudentSpec) -> str:
    """Folder, or name on the hub, of the encoder that a student reads items with.

    Raises
    ------
    SpecError
    """
    from profiles.llm.sources import locate

    try:
        return str(locate(str(student.hparams["encoder"])))
    except SpecError as error:
        raise SpecError(f"hparams.encoder: {error}") from error


def build_attributes(results: Path, cell: CellSpec, split: Split) -> Path:
    """Make (or find) the keys and values of a cell's items."""
    from profiles.item_attributes import build_item_attributes
    from recbole_kd.data.load import load_item_texts

    texts, folder = load_item_texts(cell.dataset), results / "cache" / "items"
    with wait_lock(results, "items"):
        return build_item_attributes(split.dataset, texts, folder, domain=cell.dataset.domain)


def build_items(
    results: Path, cell: CellSpec, split: Split, word_drop: tuple[float, int] | None = None
) -> Path:
    """Make (or find) the item vectors of a cell.

    Parameters
    ----------
    word_drop : (float, int), optional
        Share of the words that every text loses, and the seed.
    """
    from profiles.item_vectors import ItemVectorSpec, build_item_vectors
    from recbole_kd.data.load import load_item_texts

    spec = ItemVectorSpec.model_validate((cell.inputs or {})[ITEMS])
    texts = load_item_texts(cell.dataset)
    with wait_lock(results, "items"):
        return build_item_vectors(
            spec,
            split.dataset,
            texts,
            results / "cache" / "items",
            domain=cell.dataset.domain,
            word_drop=word_drop,
            progress=rooms.progress(f"items {spec.name}", "texts"),
        )


def read_inputs(files: Mapping[str, str] | None, split: Split, trust_unverified: bool = False) -> SideInputs:
    """Read the files of :func:`build_inputs`; profiles pass the leakage guard.

    Raises
    ------
    ProfileError, LeakageError
    """
    import torch

    from recbole_kd.data.item_attributes import load_item_attributes
    from recbole_kd.data.item_vectors import load_item_vectors
    from recbole_kd.data.profile_mean import mean_profile
    from recbole_kd.data.profile_table import load_profiles
    from recbole_kd.models.side import SideInputs

    items = users = attributes = language = None
    manifests: dict[str, Any] = {}
    digests: dict[str, str] = {}
    if files and ITEMS in files:
        found = load_item_vectors(files[ITEMS], split.dataset)
        items = torch.from_numpy(found.vectors)
        manifests[ITEMS], digests[ITEMS] = found.manifest, found.digest
    if files and USERS in files:
        table = load_profiles(files[USERS], split, trust_unverified=trust_unverified)
        users = torch.from_numpy(mean_profile(table.vectors, table.mask)[0])
        manifests[USERS], digests[USERS] = table.manifest, table.digest
    if files and ATTRIBUTES in files:
        attributes, digests[ATTRIBUTES] = load_item_attributes(files[ATTRIBUTES], split.dataset)
        language = files[LANGUAGE]
        manifests[ATTRIBUTES] = {"encoder": _weights(language)}
    pretrained = None
    if files and PRETRAIN in files:
        pretrained, manifests[PRETRAIN], digests[PRETRAIN] = pretraining.read(files[PRETRAIN])
    n_users = split.dataset.n_users
    return SideInputs(n_users, items, users, manifests, digests, pretrained, attributes, language)


def _weights(language: str) -> str:
    """Digest of a local encoder's files, or the name of one on the hub."""
    from profiles.llm.sources import weights_digest

    folder = Path(language)
    return weights_digest(folder) if folder.exists() else language
