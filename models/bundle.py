"""The bundle: a folder of plain files that is the model. Written by training, read by the job and by the CLI.

    manifest.json    what it is, what it needs, how good it is, SHA-256 of every other file
    model.json       coefficients, recalibration, baselines, limits of the training cohort
    bootstrap.json   the refits behind the intervals
    forests.npz      trees, where a learner is a forest (plain arrays)
    encoder.onnx     the encoder of the deep features, where there are any
    golden.json/.npz one small case and what must come out of it
    model_card.md    for people; model_card.json for programs
    metrics.json     every figure of the validation; report.html shows them

No pickle anywhere. Loading checks every byte against the manifest; the digest of the manifest's canonical
form names the bundle in every report.
"""

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from pydantic import BaseModel, ValidationError

from models.errors import BundleError as BundleError
from models.forest import Forest, ForestInvalid, from_bytes, to_bytes
from models.manifest import FORESTS, SCHEMA_VERSION, Bootstrap, Learner, Manifest, Model, Outliers

DEMO = Path(__file__).resolve().parent / "demo"
MANIFEST, MODEL, BOOTSTRAP, TREES = "manifest.json", "model.json", "bootstrap.json", "forests.npz"
CARD, METRICS = "model_card.md", "metrics.json"
ENCODER = "encoder.onnx"
GOLDEN, GOLDEN_IMAGE = "golden.json", "golden.npz"
REQUIRED = (MODEL, BOOTSTRAP, CARD)
MAXIMUM_BYTES = 64_000_000  # of one file: a bundle is coefficients and an encoder, not a data set

_REINSTALL = "install the bundle again from its source"
_FILE_NAME = re.compile(r"[0-9A-Za-z][0-9A-Za-z_.-]{0,63}")
_NUMBERS = re.compile(r"\[([^\[\]{}\"]*)\]")
_T = TypeVar("_T", bound=BaseModel)


class Identity(NamedTuple):
    """What a report says about the bundle; fields as analysis.contract.BundleIdentity has them."""

    name: str
    version: str
    digest: str
    synthetic: bool


@dataclass(frozen=True)
class Bundle:
    """A bundle whose every byte was checked."""

    folder: Path
    digest: str
    manifest: Manifest
    model: Model
    bootstrap: Bootstrap
    forests: Mapping[str, Forest]

    @property
    def identity(self) -> Identity:
        """Name, version, digest and whether it is synthetic."""
        return Identity(self.manifest.name, self.manifest.version, self.digest, self.manifest.synthetic)


def load(folder: Path) -> Bundle:
    """Read and check a bundle.

    Raises
    ------
    BundleError
        A file is missing, extra, changed, a link, too large or not of the format; or the numbers contradict
        each other.
    """
    if not folder.is_dir():
        raise BundleError(f"{folder}: no such folder; give the folder that holds {MANIFEST}")
    raw_manifest = _read(folder / MANIFEST)
    document = _json(MANIFEST, raw_manifest)
    version = document.get("schema_version") if isinstance(document, dict) else None
    if version != SCHEMA_VERSION:
        raise BundleError(
            f"{MANIFEST}: schema_version is {version!r}, this release reads {SCHEMA_VERSION}; "
            "use a bundle trained with a matching release"
        )
    manifest = _parse(MANIFEST, Manifest, raw_manifest)
    contents = _contents(folder, manifest)
    bundle = Bundle(
        folder=folder,
        digest=digest_of(document),
        manifest=manifest,
        model=_parse(MODEL, Model, contents[MODEL]),
        bootstrap=_parse(BOOTSTRAP, Bootstrap, contents[BOOTSTRAP]),
        forests={},
    )
    bundle = replace(bundle, forests=_forests(bundle, contents))
    _check_agreement(bundle)
    return bundle


def is_unchanged(bundle: Bundle) -> bool:
    """Whether its folder still holds it, byte for byte."""
    try:
        return load(bundle.folder).digest == bundle.digest
    except (BundleError, OSError):
        return False


def write(
    folder: Path,
    facts: Mapping[str, Any],
    model: Model,
    bootstrap: Bootstrap,
    files: Mapping[str, str | bytes],
    forests: Mapping[str, Forest] | None = None,
) -> Bundle:
    """Write a bundle into an empty or absent folder, and load it back.

    Parameters
    ----------
    facts : mapping
        Fields of `Manifest` without `files`.
    files : mapping
        Further files by name, text as UTF-8; `model_card.md` must be one of them.
    forests : mapping, optional
        By the names that the model's learners give them.

    Raises
    ------
    BundleError
        The folder holds files already, or what was written does not load.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise BundleError(f"{folder}: not empty; give a new folder")
    contents = {name: item.encode() if isinstance(item, str) else item for name, item in files.items()}
    if forests:
        contents[TREES] = to_bytes(forests)
    contents[MODEL] = _pretty(model.model_dump(mode="json"))
    contents[BOOTSTRAP] = _pretty(bootstrap.model_dump(mode="json"))
    for name, content in sorted(contents.items()):
        (folder / name).write_bytes(content)
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    manifest = Manifest.model_validate({**facts, "files": digests})
    (folder / MANIFEST).write_bytes(_pretty(manifest.model_dump(mode="json")))
    return load(folder)


def digest_of(document: object) -> str:
    """SHA-256 of a JSON document's canonical form: sorted keys, no spaces, UTF-8."""
    canonical = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def _pretty(document: object) -> bytes:
    """Indented, so that a change shows as a line; a list of numbers stays on one line."""
    text = json.dumps(document, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False)
    short = _NUMBERS.sub(lambda match: "[" + " ".join(match[1].split()) + "]", text)
    return (short + "\n").encode()


def _read(path: Path) -> bytes:
    """A regular file's bytes; never follows a link out of the folder."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except FileNotFoundError:
        raise BundleError(f"{path.name}: missing from {path.parent}; {_REINSTALL}") from None
    except OSError as error:
        raise BundleError(f"{path.name}: cannot be opened as a plain file ({error.strerror}); {_REINSTALL}") from error
    with os.fdopen(descriptor, "rb") as file:
        content = file.read(MAXIMUM_BYTES + 1)
    if len(content) > MAXIMUM_BYTES:
        raise BundleError(f"{path.name}: larger than {MAXIMUM_BYTES} bytes; {_REINSTALL}")
    return content


def _contents(folder: Path, manifest: Manifest) -> dict[str, bytes]:
    """Every file the manifest lists, each checked against its digest; and nothing else in the folder."""
    unlisted = [name for name in REQUIRED if name not in manifest.files]
    if unlisted or MANIFEST in manifest.files:
        raise BundleError(f"{MANIFEST}: files must list {', '.join(REQUIRED)} and not itself; {_REINSTALL}")
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise BundleError(f"{folder}: cannot be listed ({error.strerror}); correct its permissions") from error
    for entry in entries:
        if entry.is_symlink() or not entry.is_file():
            raise BundleError(f"{_shown(entry.name)}: a link or folder inside the bundle; remove it")
        if entry.name != MANIFEST and entry.name not in manifest.files:
            raise BundleError(f"{_shown(entry.name)}: not listed in {MANIFEST}; remove it, or {_REINSTALL}")
    contents = {}
    for name, expected in sorted(manifest.files.items()):
        content = _read(folder / name)
        if hashlib.sha256(content).hexdigest() != expected:
            raise BundleError(f"{name}: changed since the bundle was made (SHA-256 differs); {_REINSTALL}")
        contents[name] = content
    return contents


def _shown(name: str) -> str:
    return name if _FILE_NAME.fullmatch(name) else ascii(name)


def _json(name: str, content: bytes) -> Any:
    try:
        return json.loads(content, parse_constant=_no_constant)
    except (UnicodeDecodeError, ValueError, RecursionError) as error:
        raise BundleError(f"{name}: not JSON ({error}); {_REINSTALL}") from error


def _no_constant(text: str) -> None:
    raise ValueError(f"{text} is no JSON number")


def _parse(name: str, kind: type[_T], content: bytes) -> _T:
    try:
        return kind.model_validate_json(content, strict=False)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "document"
        raise BundleError(f"{name}: {where}: {first['msg']}; {_REINSTALL}") from error


def _check_agreement(bundle: Bundle) -> None:
    """The three files describe one model: the same modalities, endpoints, features and row counts."""
    manifest, model, bootstrap = bundle.manifest, bundle.model, bundle.bootstrap
    endpoints = [endpoint.name for endpoint in manifest.endpoints]
    subsets = combinations_of(manifest.modalities)
    _same(MANIFEST, "sub_models", [s.modalities for s in manifest.sub_models], subsets)
    _same(
        MODEL,
        "learners",
        list(dict.fromkeys((item.modality, item.endpoint) for item in model.learners)),
        [(m, e) for m in manifest.modalities for e in endpoints],
    )
    _same(
        MODEL,
        "recalibration",
        [(r.modalities, r.endpoint) for r in model.recalibration],
        [(s, e) for s in subsets for e in endpoints],
    )
    _same(
        BOOTSTRAP,
        "learners",
        [(item.modality, item.endpoint, item.kind) for item in bootstrap.learners],
        [(item.modality, item.endpoint, item.kind) for item in model.learners],
    )
    _same(
        BOOTSTRAP,
        "recalibration",
        [(r.modalities, r.endpoint) for r in bootstrap.recalibration],
        [(r.modalities, r.endpoint) for r in model.recalibration],
    )
    for sub_model in manifest.sub_models:
        _same(MANIFEST, "cutoffs", list(sub_model.cutoffs), endpoints)
    _check_features(bundle)
    _check_rows(bundle)


def _check_features(bundle: Bundle) -> None:
    manifest = bundle.manifest
    predictors = {predictor.name: predictor for predictor in manifest.clinical}
    known = {"clinical": set(predictors), "radiomic": set(manifest.radiomic), "deep": set(manifest.deep)}
    if manifest.encoder is not None and manifest.encoder not in manifest.files:
        raise BundleError(f"{MANIFEST}: files do not list the encoder {manifest.encoder}; {_REINSTALL}")
    stray = set(manifest.minimum_clinical) - set(predictors)
    if stray:
        raise BundleError(f"{MANIFEST}: minimum_clinical names {sorted(stray)}, not in clinical; {_REINSTALL}")
    parts: list[Learner | Outliers] = [*bundle.model.learners, *bundle.model.outliers]
    for part in parts:
        for column in part.columns:
            if column.feature not in known[part.modality]:
                raise BundleError(
                    f"{MODEL}: {column.feature} is no {part.modality} feature of {MANIFEST}; {_REINSTALL}"
                )
            predictor = predictors.get(column.feature)
            if column.level is not None and (predictor is None or column.level not in predictor.categories):
                raise BundleError(f"{MODEL}: {column.feature} has no category {column.level!r}; {_REINSTALL}")
            if column.level is None and predictor is not None and predictor.type == "category":
                raise BundleError(f"{MODEL}: {column.feature} is a category and needs a level; {_REINSTALL}")


def _forests(bundle: Bundle, contents: Mapping[str, bytes]) -> dict[str, Forest]:
    """The forests that the learners name, each checked against its learner."""
    learners = {item.forest: item for item in bundle.model.learners if item.forest is not None}
    if not learners and TREES not in contents:
        return {}
    try:
        found = from_bytes(contents.get(TREES, b""), frozenset(learners))
        for name, learner in learners.items():
            found[name].check(len(learner.columns), bundle.bootstrap.rows)
    except ForestInvalid as error:
        raise BundleError(f"{TREES}: {error}; {_REINSTALL}") from error
    return found


def _check_rows(bundle: Bundle) -> None:
    rows = bundle.bootstrap.rows
    longest = {endpoint.name: max(endpoint.horizons_months) for endpoint in bundle.manifest.endpoints}
    horizons = {endpoint.name: len(endpoint.horizons_months) for endpoint in bundle.manifest.endpoints}
    for learner, refits in zip(bundle.model.learners, bundle.bootstrap.learners, strict=True):
        linear = learner.kind not in FORESTS
        counts = {len(refits.offset), len(refits.scale), len(refits.coefficients) if linear else rows}
        widths = {len(row) for row in refits.coefficients}
        if counts != {rows} or not widths <= ({len(learner.columns)} if linear else set()):
            raise BundleError(
                f"{BOOTSTRAP}: {learner.modality} {learner.endpoint}: row count or width differs; {_REINSTALL}"
            )
    for population in bundle.model.population:
        if len(population.event_probability) > longest.get(population.endpoint, -1) + 1:
            raise BundleError(f"{MODEL}: population {population.endpoint} runs beyond the last horizon; {_REINSTALL}")
    for recalibration, again in zip(bundle.model.recalibration, bundle.bootstrap.recalibration, strict=True):
        if len(recalibration.cumulative_hazard) <= longest[recalibration.endpoint]:
            raise BundleError(
                f"{MODEL}: cumulative hazard ends before month {longest[recalibration.endpoint]}; {_REINSTALL}"
            )
        widths = {len(row) for row in again.cumulative_hazard}
        if {len(again.slope), len(again.cumulative_hazard)} != {rows} or not widths <= {horizons[again.endpoint]}:
            raise BundleError(f"{BOOTSTRAP}: recalibration rows or horizons differ in number; {_REINSTALL}")


def _same(name: str, what: str, found: list[Any], expected: list[Any]) -> None:
    if found != expected:
        raise BundleError(f"{name}: {what} lists {found}, expected {expected}; {_REINSTALL}")


def combinations_of(modalities: tuple[Any, ...]) -> list[tuple[Any, ...]]:
    """Every non-empty combination, in the order of the modalities: singles first.

    >>> combinations_of(("clinical", "radiomic"))
    [('clinical',), ('radiomic',), ('clinical', 'radiomic')]
    """
    subsets: list[tuple[Any, ...]] = [()]
    for modality in modalities:
        subsets += [(*subset, modality) for subset in subsets]
    return sorted(subsets[1:], key=lambda subset: (len(subset), [modalities.index(m) for m in subset]))
