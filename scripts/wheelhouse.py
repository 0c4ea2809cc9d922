"""python scripts/wheelhouse.py DIST: everything that a machine without network needs, from the lock.

DIST/wheels         our wheel, and each wheel that running it needs, in the versions and with the hashes of
                    requirements/; what has to be compiled (pyradiomics, our own) is compiled here, once
DIST/requirements.txt, requirements-cjk.txt   what to install, one hash for each file; cjk: with fonts for "ja" and "ko"

Then, on the other machine:  pip install --no-index --find-links DIST/wheels --require-hashes -r DIST/requirements.txt
"""

import email
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENT = ROOT / "build" / "packaging"
PYTHON = ENVIRONMENT / "bin" / "python"
LOCKS = [ROOT / "requirements" / name for name in ("locked.txt", "pyradiomics.txt")]
PINNED = r"(?m)^([a-z0-9._-]+)(?:\[[^]]*\])?==(\S+) \\\n((?:[ ]+--hash.*\n?)+)"
BUILDS = ("setuptools", "wheel", "packaging", "numpy")  # what compiles our wheel and pyradiomics
COMPILED = ("pyradiomics", "docopt")  # their authors publish sources alone
SOURCES = ("dicom_node", "analysis", "reports", "config", "models", "pyproject.toml", "README.md")


def locked() -> dict[str, tuple[str, list[str]]]:
    """Version and SHA-256 values of each distribution in the lock."""
    found = {}
    for path in LOCKS:
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        for name, version, rest in re.findall(PINNED, text):
            found[name] = (version, re.findall(r"sha256:([0-9a-f]{64})", rest))
    return found


def line(name: str, version: str, hashes: list[str]) -> str:
    return " \\\n    ".join([f"{name}=={version}", *(f"--hash=sha256:{each}" for each in hashes)]) + "\n"


def named(wheel: Path) -> tuple[str, str, str]:
    """Name as the lock writes it, version, and SHA-256 of a wheel."""
    name, version = wheel.name.split("-")[:2]
    return re.sub(r"[-_.]+", "-", name).lower(), version, hashlib.sha256(wheel.read_bytes()).hexdigest()


def in_own_environment() -> None:
    """Go on in an environment that compiles wheels: it has what the lock says, and nothing else."""
    if Path(sys.prefix) == ENVIRONMENT:
        return
    lock, made = locked(), ENVIRONMENT / "requirements.txt"
    wanted = "".join(line(name, *lock[name]) for name in BUILDS)
    if not made.exists() or made.read_text() != wanted:
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(ENVIRONMENT)], check=True)
        draft = made.with_suffix(".draft")
        draft.write_text(wanted)
        pip("install", "--require-hashes", "-r", str(draft))
        draft.rename(made)
    os.execv(PYTHON, [str(PYTHON), *sys.argv])  # noqa: S606


def pip(command: str, *arguments: str) -> None:
    words = [str(PYTHON), "-m", "pip", command, "--quiet", "--disable-pip-version-check", *arguments]
    done = subprocess.run(words, check=False)
    if done.returncode:
        sys.exit(f"wheelhouse: pip {command} failed, see above")


def compiled(folder: Path, lock: dict[str, tuple[str, list[str]]]) -> Path:
    """What is published as sources, and our wheel.

    Ours from a copy: setuptools packs what an earlier build left beside the sources.
    """
    build = ("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder))
    for name in [name for name in COMPILED if name in lock]:
        if not list(folder.glob(f"{name}-{lock[name][0]}-*.whl")):
            with tempfile.NamedTemporaryFile("w", suffix=".txt") as wanted:
                wanted.write(line(name, *lock[name]))
                wanted.flush()
                pip(*build, "--require-hashes", "-r", wanted.name)
    for old in folder.glob("prognode-*.whl"):
        old.unlink()
    with tempfile.TemporaryDirectory() as copy:
        for name in SOURCES:
            source, target = ROOT / name, Path(copy, name)
            if source.is_dir():
                shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
            else:
                shutil.copy2(source, target)
        pip(*build, "--no-index", copy)
    (ours,) = folder.glob("prognode-*.whl")
    return ours


def closure(wheels: dict[str, Path], name: str, extra: str) -> set[str]:
    """The distribution and all that it needs, by the wheels' own metadata."""
    from packaging.requirements import Requirement  # noqa: PLC0415 - of the own environment

    found: set[str] = set()
    open_ends = [(name, extra)]
    while open_ends:
        name, extra = open_ends.pop()
        with zipfile.ZipFile(wheels[name]) as archive:
            (metadata,) = [each for each in archive.namelist() if re.fullmatch(r"[^/]+\.dist-info/METADATA", each)]
            headers = email.message_from_bytes(archive.read(metadata))
        found.add(name)
        for text in headers.get_all("Requires-Dist", []):
            wanted = Requirement(text)
            other = re.sub(r"[-_.]+", "-", wanted.name).lower()
            if wanted.marker and not wanted.marker.evaluate({"extra": extra}):
                continue
            open_ends += [(other, each) for each in ("", *wanted.extras) if each or other not in found]
    return found


def main(dist: Path) -> int:
    lock, folder = locked(), dist / "wheels"
    folder.mkdir(parents=True, exist_ok=True)
    ours = compiled(folder, lock)
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as pins:
        pins.writelines(f"{name}=={version}\n" for name, (version, _) in lock.items())
        pins.flush()
        pip("download", "--only-binary", ":all:", "--find-links", str(folder), "--dest", str(folder),
            "--constraint", pins.name, f"{ours}[cjk]")  # fmt: skip
    wheels = {named(path)[0]: path for path in sorted(folder.glob("*.whl"))}
    full = closure(wheels, "prognode", "cjk")
    for path in folder.iterdir():
        if path not in {wheels[name] for name in full}:
            path.unlink()  # of an earlier lock
    for file, names in (("requirements.txt", closure(wheels, "prognode", "")), ("requirements-cjk.txt", full)):
        lines = []
        for name in sorted(names):
            _, version, digest = named(wheels[name])
            if name not in ("prognode", *COMPILED) and (version, digest in lock[name][1]) != (lock[name][0], True):
                sys.exit(f"wheelhouse: {wheels[name].name} is not what requirements/locked.txt pins")
            lines.append(line(name, version, [digest]))
        (dist / file).write_text("".join(lines))
    megabytes = sum(path.stat().st_size for path in folder.iterdir()) / 1e6
    print(f"{folder}: {len(full)} wheels, {megabytes:.0f} MB")
    return 0


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    in_own_environment()
    sys.exit(main(Path(sys.argv[1])))
