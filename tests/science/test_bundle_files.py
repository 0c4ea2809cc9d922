"""A bundle loads only if every byte is the one that was written; there is no pickle in it."""

import json
import shutil
from pathlib import Path

import pytest

from models.bundle import DEMO, Bundle, BundleError, digest_of, load, write


@pytest.fixture
def copy(bundle_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundle_folder, tmp_path / "copy"))


def edit_manifest(folder: Path, **changes: object) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_changed_byte_anywhere_is_refused_by_the_files_name(copy: Path) -> None:
    for path in sorted(copy.iterdir()):
        original = path.read_bytes()
        if path.name == "manifest.json":
            continue
        path.write_bytes(original[:-2] + bytes([original[-2] ^ 1]) + original[-1:])
        with pytest.raises(BundleError, match=f"{path.name}: changed"):
            load(copy)
        path.write_bytes(original)
    load(copy)


def test_a_missing_file_is_refused(copy: Path) -> None:
    (copy / "bootstrap.json").unlink()
    with pytest.raises(BundleError, match=r"bootstrap.json: missing"):
        load(copy)


def test_an_extra_file_is_refused(copy: Path) -> None:
    (copy / "model.pkl").write_bytes(b"\x80\x04.")
    with pytest.raises(BundleError, match=r"model.pkl: not listed"):
        load(copy)


def test_a_link_or_a_folder_inside_is_refused(copy: Path, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere.json"
    (copy / "model.json").rename(moved)
    (copy / "model.json").symlink_to(moved)
    with pytest.raises(BundleError, match=r"model.json: a link"):
        load(copy)
    (copy / "model.json").unlink()
    shutil.copy(moved, copy / "model.json")
    (copy / "more").mkdir()
    with pytest.raises(BundleError, match="more: a link or folder"):
        load(copy)


@pytest.mark.parametrize("name", ["../outside.json", "/etc/passwd", "a/b.json", ".hidden", ""])
def test_a_file_name_that_leaves_the_folder_is_refused(copy: Path, name: str) -> None:
    files = json.loads((copy / "manifest.json").read_text())["files"]
    edit_manifest(copy, files={**files, name: "0" * 64})
    with pytest.raises(BundleError, match=r"manifest.json: files"):
        load(copy)


@pytest.mark.parametrize("version", [0, 1, "2", None])
def test_an_unknown_schema_version_is_refused(copy: Path, version: object) -> None:
    edit_manifest(copy, schema_version=version)
    with pytest.raises(BundleError, match="schema_version"):
        load(copy)


def test_an_unknown_key_is_refused(copy: Path) -> None:
    edit_manifest(copy, colour="blue")
    with pytest.raises(BundleError, match=r"manifest.json: colour"):
        load(copy)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "\x00", "[" * 100_000])
def test_a_manifest_that_is_no_manifest_is_refused(copy: Path, text: str) -> None:
    (copy / "manifest.json").write_text(text)
    with pytest.raises(BundleError, match=r"manifest.json"):
        load(copy)


def test_a_number_that_is_none_is_refused_even_where_anything_may_stand(copy: Path) -> None:
    edit_manifest(copy, extraction={"bin_width": float("nan")})
    with pytest.raises(BundleError, match=r"manifest.json: not JSON \(NaN"):
        load(copy)


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no such folder"):
        load(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("part", "field", "value", "text"),
    [
        ("learners", "coefficients", (1.0,), "columns and coefficients differ"),
        ("learners", "kind", "survival-forest", "a forest|differ"),
        ("recalibration", "cumulative_hazard", (0.0, 0.2, 0.1), "does not rise"),
        ("recalibration", "slope", -1.0, "slope"),
        ("recalibration", "slope", float("nan"), "nan"),
        ("recalibration", "cumulative_hazard", (0.0, 0.1), "ends before month 36"),
        ("learners", "modality", "deep", "learners lists"),
        ("outliers", "precision", ((1.0,),), "precision is not of"),
    ],
)
def test_numbers_that_contradict_each_other_are_refused(
    bundle: Bundle, tmp_path: Path, part: str, field: str, value: object, text: str
) -> None:
    facts = bundle.manifest.model_dump(exclude={"files"})
    items = getattr(bundle.model, part)
    wrong = bundle.model.model_copy(update={part: (items[0].model_copy(update={field: value}), *items[1:])})
    with pytest.raises((BundleError, ValueError), match=text):
        write(tmp_path / "wrong", facts, wrong, bundle.bootstrap, {"model_card.md": "card"})


def test_the_digest_is_the_manifests_meaning_not_its_layout(copy: Path, bundle: Bundle) -> None:
    document = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps(dict(reversed(document.items())), indent=8))
    assert load(copy).digest == bundle.digest == digest_of(document)
    edit_manifest(copy, version="9.9.9")
    assert load(copy).digest != bundle.digest


def test_writing_what_was_loaded_gives_the_same_digest(bundle: Bundle, tmp_path: Path) -> None:
    made = {"manifest.json", "model.json", "bootstrap.json"}
    texts = {path.name: path.read_bytes() for path in bundle.folder.iterdir() if path.name not in made}
    facts = bundle.manifest.model_dump(exclude={"files"})
    again = write(tmp_path / "again", facts, bundle.model, bundle.bootstrap, texts)
    assert again.digest == bundle.digest
    with pytest.raises(BundleError, match="not empty"):
        write(tmp_path / "again", {}, bundle.model, bundle.bootstrap, texts)


def test_the_demo_bundle_loads_is_small_and_says_everywhere_that_it_is_synthetic() -> None:
    demo = load(DEMO)
    assert demo.identity.synthetic
    assert demo.manifest.warning == "SYNTHETIC - NOT FOR CLINICAL USE"
    assert demo.manifest.warning in (DEMO / "model_card.md").read_text()
    assert demo.manifest.modalities == ("clinical", "radiomic", "deep")
    assert [e.horizons_months for e in demo.manifest.endpoints] == [(12, 36), (12, 36)]
    assert sum(path.stat().st_size for path in DEMO.iterdir()) < 5_000_000
    for path in DEMO.iterdir():
        assert path.stat().st_size < 1_000_000
        if path.suffix in (".onnx", ".npz"):  # a graph and arrays; both readers refuse to unpickle
            continue
        text = path.read_bytes().decode()
        assert path.suffix in (".json", ".md", ".html")
        if path.suffix == ".json":
            json.loads(text)
