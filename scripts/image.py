"""python -m scripts.image DIST FOLDER: what `podman build` needs for the job's image, out of the wheelhouse in DIST.

FOLDER/wheels, requirements.txt   what a job imports, in the versions and with the hashes of the lock, and nothing else
FOLDER/sbom.json                  CycloneDX, of exactly these (build/tools makes it)
FOLDER/Containerfile, trim        as in deploy/
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from scripts.wheelhouse import closure, line, named

ROOT = Path(__file__).resolve().parent.parent
IMPORTED = (  # by analysis.run and what it imports; a job in the image shows that none is missing
    "highdicom", "numpy", "onnxruntime", "pydantic", "pydicom", "pyradiomics", "pywavelets", "scipy", "simpleitk",
)  # fmt: skip


def main(dist: Path, folder: Path) -> int:
    wheels = {named(path)[0]: path for path in sorted((dist / "wheels").glob("*.whl"))}
    absent = [name for name in (*IMPORTED, "prognode") if name not in wheels]
    if absent:
        sys.exit(f"image: {dist}/wheels has no {', '.join(absent)}; run make wheelhouse")
    names = sorted({"prognode"}.union(*(closure(wheels, name, "") for name in IMPORTED)))
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "wheels").mkdir(parents=True)
    lines = []
    for name in names:
        path = wheels[name]
        _, version, digest = named(path)
        lines.append(line(name, version, [digest]))
        try:
            os.link(path, folder / "wheels" / path.name)
        except OSError:
            shutil.copyfile(path, folder / "wheels" / path.name)
    (folder / "requirements.txt").write_text("".join(lines))
    for name in ("Containerfile", "trim"):
        shutil.copyfile(ROOT / "deploy" / name, folder / name)
    tool = ROOT / "build" / "tools" / "bin" / "cyclonedx-py"
    command = [
        str(tool),
        "requirements",
        "--pyproject",
        str(ROOT / "pyproject.toml"),
        "--output-reproducible",
        "--of",
        "JSON",
    ]
    made = subprocess.run(
        [*command, "-o", str(folder / "sbom.json"), "--validate", str(folder / "requirements.txt")], check=False
    )
    if made.returncode:
        sys.exit(f"image: no SBOM: {made.stderr[-500:]}")
    print(f"{folder}: {len(names)} distributions")
    return 0


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
