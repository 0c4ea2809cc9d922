"""`forests.npz` is read without trust: what is damaged or meant to harm is refused in words, and nothing of it runs."""

import io
import json
import pickle
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from models import forest as module
from models.bundle import Bundle, BundleError, load, write
from models.forest import Forest, ForestInvalid, from_bytes, to_bytes

KEYS = frozenset({"a"})


def stump(**changes: np.ndarray) -> Forest:
    """Two trees of one split each: the model, and one refit."""
    good = Forest(
        roots=np.array([0, 3], np.int32),
        rows=np.array([0, 1], np.int32),
        feature=np.array([0, 0, 0, 1, 0, 0], np.int16),
        threshold=np.array([0.5, 0, 0, -0.5, 0, 0]),
        left=np.array([1, 1, 2, 4, 4, 5], np.int32),
        right=np.array([2, 1, 2, 5, 4, 5], np.int32),
        value=np.array([0.4, 0.2, 0.6, 0.4, 0.3, 0.5]),
    )
    return replace(good, **changes)


def changed(name: str, position: int, value: float) -> Forest:
    array = getattr(stump(), name).copy()
    array[position] = value
    return stump(**{name: array})


def archive(**entries: bytes) -> bytes:
    """The archive of a good forest with some arrays replaced; None leaves one out."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(to_bytes({"a": stump()}))) as given, zipfile.ZipFile(out, "w") as made:
        for name in given.namelist():
            short = name.removeprefix("a/").removesuffix(".npy")
            made.writestr(name, entries.get(short, given.read(name)), zipfile.ZIP_DEFLATED)
    return out.getvalue()


def npy(array: np.ndarray, allow_pickle: bool = False, version: tuple[int, int] = (1, 0)) -> bytes:
    out = io.BytesIO()
    np.lib.format.write_array(out, array, version=version, allow_pickle=allow_pickle)
    return out.getvalue()


def test_what_is_written_is_read_again_and_the_same_forests_give_the_same_bytes() -> None:
    content = to_bytes({"a": stump()})
    assert content == to_bytes({"a": stump()})
    again = from_bytes(content, KEYS)["a"]
    again.check(columns=2, refits=1)
    for name in module._KINDS:
        assert np.array_equal(getattr(again, name), getattr(stump(), name))
    z = np.array([[0.5, -0.5], [0.6, -0.4]])
    assert again.means(z, 1).tolist() == [[0.2, 0.3], [0.6, 0.5]]


def test_values_and_thresholds_meet_in_single_precision() -> None:
    """0.1 is above float32(0.1) as a double; scikit-learn compares it as a single, where it is equal and goes left."""
    single = float(np.float32(0.1))
    assert single > 0.1
    assert changed("threshold", 0, single).means(np.array([np.nextafter(single, 1), 0.0]), 1)[0] == 0.2
    assert changed("threshold", 0, 0.1).means(np.array([0.1, 0.0]), 1)[0] == 0.6  # float32(0.1) is above 0.1


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        (changed("left", 0, 0), "a child stands before its parent"),  # a walk that never ends
        (changed("right", 3, 0), "a child stands before its parent"),
        (changed("right", 0, 6), "outside the arrays"),
        (changed("left", 0, -1), "outside the arrays"),
        (changed("left", 1, 0), "a child stands before its parent"),
        (changed("roots", 1, 6), "a root is no node"),
        (changed("roots", 0, -1), "a root is no node"),
        (changed("feature", 0, 2), "a column that is not there"),
        (changed("feature", 0, -1), "a column that is not there"),
        (changed("rows", 1, 0), "a row has no tree"),
        (changed("rows", 1, 2), "a row has no tree"),
        (changed("rows", 1, -1), "a row has no tree"),
        (changed("threshold", 0, np.nan), "not a finite number"),
        (changed("value", 2, np.inf), "not a finite number"),
        (stump(value=np.zeros(5)), "value has another length"),
        (stump(roots=np.zeros(3, np.int32)), "roots and rows differ"),
    ],
)
def test_arrays_that_are_no_forest_are_refused(wrong: Forest, text: str) -> None:
    with pytest.raises(ForestInvalid, match=text):
        from_bytes(to_bytes({"a": wrong}), KEYS)["a"].check(columns=2, refits=1)


def test_a_tree_too_deep_to_be_walked_to_its_leaf_is_refused() -> None:
    def chain(steps: int) -> Forest:
        """Node i goes on to i + 1 or straight to the last."""
        nodes = steps + 1
        onward = np.minimum(np.arange(nodes) + 1, steps).astype(np.int32)
        return Forest(
            roots=np.zeros(1, np.int32),
            rows=np.zeros(1, np.int32),
            feature=np.zeros(nodes, np.int16),
            threshold=np.zeros(nodes),
            left=onward,
            right=np.full(nodes, steps, np.int32),
            value=np.arange(nodes, dtype=float),
        )

    longest = chain(module.MAXIMUM_DEPTH)
    longest.check(1, 0)
    assert longest.means(np.array([-1.0]), 0)[0] == module.MAXIMUM_DEPTH
    with pytest.raises(ForestInvalid, match="deeper than 64"):
        chain(module.MAXIMUM_DEPTH + 1).check(1, 0)


class Bomb:
    """Says so when it is unpickled."""

    went_off = False

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return setattr, (Bomb, "went_off", True)


@pytest.mark.parametrize(
    ("entry", "text"),
    [
        (npy(np.array([Bomb()], object), allow_pickle=True), "another kind"),
        (pickle.dumps(Bomb()), "no plain array"),
        (npy(np.zeros(6, "<f4")), "another kind"),
        (npy(np.zeros(6, ">f8")), "another kind"),
        (npy(np.zeros(6, "<i8")), "another kind"),
        (npy(np.zeros(6, "U8")), "another kind"),
        (npy(np.zeros((6, 1))), "another kind"),
        (npy(np.array(1.0)), "another kind"),
        (npy(np.zeros(6), version=(2, 0)), "no plain array|another kind"),
        (npy(np.zeros(6))[:-8], "cut short or too long"),
        (npy(np.zeros(6)) + b"\0", "cut short or too long"),
        (npy(np.zeros(6)).replace(b"(6,)", b"(9,)"), "cut short or too long"),
        (npy(np.zeros(1000)).replace(b"(1000,), }      ", b"(99999999999,),}"), "cut short or too long"),
        (b"\x93NUMPY\x01\x00\x04\x00{()}", "no plain array"),
        (b"", "no plain array"),
    ],
)
def test_an_entry_that_is_no_plain_array_is_refused_and_never_run(entry: bytes, text: str) -> None:
    with pytest.raises(ForestInvalid, match=text):
        from_bytes(archive(value=entry), KEYS)
    assert not Bomb.went_off


def test_an_archive_that_unpacks_to_more_than_there_is_room_for_is_refused_before_it_is_unpacked() -> None:
    content = to_bytes({"a": stump()})
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as made:
        with zipfile.ZipFile(io.BytesIO(content)) as given:
            for name in given.namelist():
                if name != "a/value.npy":
                    made.writestr(name, given.read(name))
        with made.open("a/value.npy", "w") as entry:
            for _ in range(1 + module.MAXIMUM_BYTES // 4_000_000):
                entry.write(bytes(4_000_000))
    assert len(packed.getvalue()) < 1_000_000
    with pytest.raises(ForestInvalid, match="unpacks to more than"):
        from_bytes(packed.getvalue(), KEYS)


def test_arrays_missing_over_or_twice_are_refused() -> None:
    content = to_bytes({"a": stump()})
    for keys in (frozenset(), frozenset({"b"}), frozenset({"a", "b"})):
        with pytest.raises(ForestInvalid, match="not those that"):
            from_bytes(content, keys)
    with zipfile.ZipFile(io.BytesIO(content)) as given:
        names = given.namelist()
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w") as made:
            for name in names:
                made.writestr(name, given.read(name))
            with pytest.warns(UserWarning, match="Duplicate name"):
                made.writestr("a/value.npy", given.read("a/value.npy"))
    with pytest.raises(ForestInvalid, match="not those that"):
        from_bytes(out.getvalue(), KEYS)


def test_an_archive_packed_in_a_slower_way_is_refused() -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(to_bytes({"a": stump()}))) as given, zipfile.ZipFile(out, "w") as made:
        for name in given.namelist():
            made.writestr(name, given.read(name), zipfile.ZIP_LZMA)
    with pytest.raises(ForestInvalid, match="packed in another way"):
        from_bytes(out.getvalue(), KEYS)


def test_no_flipped_or_missing_byte_gets_further_than_a_refusal() -> None:
    """Each of 3,000 damaged files is refused in words, or still is a forest that can be walked to its end."""
    content = to_bytes({"a": stump()})
    rng = np.random.default_rng(1)
    refused = 0
    for attempt in range(3000):
        damaged = bytearray(content)
        for position in rng.integers(0, len(content), 1 + attempt % 3):
            damaged[position] = rng.integers(256)
        if attempt % 5 == 0:
            del damaged[rng.integers(len(damaged)) :]
        try:
            found = from_bytes(bytes(damaged), KEYS)["a"]
            found.check(2, 1)
        except ForestInvalid:
            refused += 1
        else:
            assert np.isfinite(found.means(np.zeros(2), 1)).all()
    assert refused > 2000


# As part of a bundle ------------------------------------------------------------------------------------------


def rewritten(bundle: Bundle, folder: Path, content: bytes | None) -> Path:
    """The bundle with other bytes for its forests and a manifest that vouches for them, as one who means harm does."""
    import hashlib

    folder.mkdir()
    for path in bundle.folder.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    manifest = json.loads((folder / "manifest.json").read_text())
    if content is None:
        (folder / "forests.npz").unlink()
        del manifest["files"]["forests.npz"]
    else:
        (folder / "forests.npz").write_bytes(content)
        manifest["files"]["forests.npz"] = hashlib.sha256(content).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def damaged(bundle: Bundle, **arrays: np.ndarray) -> bytes:
    first = min(bundle.forests)
    return to_bytes({**bundle.forests, first: replace(bundle.forests[first], **arrays)})


def test_a_bundle_whose_forests_are_wrong_does_not_load_and_says_which_file(
    several_bundle: Bundle, tmp_path: Path
) -> None:
    first = several_bundle.forests[min(several_bundle.forests)]
    nan, loop, astray = first.threshold.copy(), first.left.copy(), first.feature.copy()
    nan[0], loop[0], astray[0] = np.nan, 0, 999
    cases = [
        (None, "not an archive"),
        (b"", "not an archive"),
        (b"PK\x05\x06" + bytes(18), "not those that model.json names"),
        (to_bytes({}), "not those that model.json names"),
        (damaged(several_bundle, threshold=nan), "not a finite number"),
        (damaged(several_bundle, left=loop), "a child stands before its parent"),
        (damaged(several_bundle, feature=astray), "a column that is not there"),
        (damaged(several_bundle, rows=np.minimum(first.rows, 3)), "a row has no tree"),
    ]
    for number, (content, text) in enumerate(cases):
        folder = rewritten(several_bundle, tmp_path / str(number), content)
        with pytest.raises(BundleError, match=rf"forests\.npz: .*{text}.*install the bundle again"):
            load(folder)
    load(rewritten(several_bundle, tmp_path / "good", to_bytes(several_bundle.forests)))


def test_a_bundle_without_forests_refuses_a_file_of_them(bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"forests\.npz"):
        load(rewritten(bundle, tmp_path / "more", to_bytes({"stray": stump()})))


def test_a_bundle_of_several_learners_holds_no_pickle_and_is_written_again_to_the_same_digest(
    several_bundle: Bundle, tmp_path: Path
) -> None:
    with np.load(several_bundle.folder / "forests.npz", allow_pickle=False) as arrays:
        assert {arrays[name].dtype.kind for name in arrays.files} == {"i", "f"}
    made = {"manifest.json", "model.json", "bootstrap.json", "forests.npz"}
    others = {path.name: path.read_bytes() for path in several_bundle.folder.iterdir() if path.name not in made}
    facts = several_bundle.manifest.model_dump(exclude={"files"})
    again = write(
        tmp_path / "again", facts, several_bundle.model, several_bundle.bootstrap, others, several_bundle.forests
    )
    assert again.digest == several_bundle.digest
