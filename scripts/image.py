"""python -m scripts.image [--node] DIST FOLDER [BASE]: the image that jobs run in, out of the wheelhouse DIST, offline.

FOLDER/wheels, requirements.txt   what a job imports, in the versions and with the hashes of the lock, and nothing else
FOLDER/sbom.json                  CycloneDX, of exactly these (build/tools makes it)
FOLDER/Containerfile, trim        as in deploy/
FOLDER/image                      the built image by its digest, for [job] image

--node: the image of the services instead, out of all of DIST (deploy/Containerfile.node); FOLDER is for scratch.
BASE: the image under it, which is here already; none: a Debian 12 made by debootstrap (scripts/image-base).
python -m scripts.image --why: whether an image could be built and tried here, for the end of `make test`.
ENGINE=podman or docker: which builds it. Where neither works it says why and exits with 69; with IMAGE_OPTIONAL=1: 0.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from scripts.wheelhouse import closure, line, named

ROOT = Path(__file__).resolve().parent.parent
IMPORTED = (  # by analysis.run and what it imports; a job in the image shows that none is missing
    "highdicom", "numpy", "onnxruntime", "pydantic", "pydicom", "pyradiomics", "pywavelets", "simpleitk",
)  # fmt: skip


LOCAL_BASE = "localhost/prognode-base:bookworm"
NAME, NODE_NAME = "localhost/prognode-job", "localhost/prognode"
# For a machine that may not raise its own limits (no CAP_SYS_RESOURCE): podman asks for 1048576 open files. And crun of
# Debian 12 refuses control groups v1 beside an empty v2 ("cgroups in hybrid mode not supported"); runc takes them.
CONFINED = """[containers]
default_ulimits = ["nofile=4096:4096", "nproc=4096:4096"]
[engine]
runtime = "runc"
"""


class Unusable(Exception):
    """No container can be built or run here; the text says why."""


def usable_engine() -> str:
    """podman or docker, whichever answers, with CONTAINERS_CONF set where podman needs it. Raises Unusable."""
    wanted = os.environ.get("ENGINE")
    found = [name for name in ([wanted] if wanted else ["podman", "docker"]) if shutil.which(name)]
    reasons = [] if found else ["neither podman nor docker is installed (apt-get install podman)"]
    for name in found:
        done = subprocess.run([name, "info"], capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return name
        reasons.append(f"{name} info: {last(done)}")
    raise Unusable("; ".join(reasons))


def starts(engine: str, image: str, folder: Path) -> None:
    """Try a container; with the settings for confined machines where it does not start without. Raises Unusable."""
    command = [engine, "run", "--rm", "--network", "none", image, "true"]
    first = subprocess.run(command, capture_output=True, text=True, check=False)
    if first.returncode == 0:
        return
    if engine != "podman" or shutil.which("runc") is None or "CONTAINERS_CONF" in os.environ:
        raise Unusable(f"{engine} starts no container: {last(first)}")
    path = folder / "containers.conf"
    path.write_text(CONFINED)
    os.environ["CONTAINERS_CONF"] = str(path.resolve())
    second = subprocess.run(command, capture_output=True, text=True, check=False)
    if second.returncode:
        raise Unusable(f"podman starts no container: {last(first)}; with runc and lower limits: {last(second)}")
    print(f"podman starts containers here with {path} ({last(first)})")


def last(done: "subprocess.CompletedProcess[str]") -> str:
    return ((done.stderr or done.stdout).strip().splitlines() or [f"status {done.returncode}"])[-1]


def fill(dist: Path, folder: Path) -> int:
    """Fill FOLDER; gives how many distributions it has."""
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
        str(tool), "requirements", "--pyproject", str(ROOT / "pyproject.toml"), "--output-reproducible", "--of", "JSON",
        "-o", str(folder / "sbom.json"), "--validate", str(folder / "requirements.txt"),
    ]  # fmt: skip
    made = subprocess.run(command, check=False, stderr=subprocess.PIPE, text=True)
    if made.returncode:
        sys.exit(f"image: no SBOM: {made.stderr[-500:]}")
    return len(names)


def build(engine: str, base: str, folder: Path, context: Path, name: str, file: Path) -> str:
    """The image's digest, or its ID where the engine gives it none. Raises Unusable."""
    here = subprocess.run([engine, "image", "inspect", base], capture_output=True, check=False).returncode == 0
    if not here and base == LOCAL_BASE:
        made = subprocess.run([str(ROOT / "scripts" / "image-base"), engine], check=False)
        if made.returncode:
            raise Unusable(f"no base image (scripts/image-base: status {made.returncode})")
    elif not here:
        raise Unusable(f"{base} is not here: {engine} pull {base}, or leave BASE out")
    starts(engine, base, folder)
    command = [
        engine, "build", "--network", "none", "--build-arg", f"BASE={base}", "--tag", f"{name}:latest",
        "--file", str(file), str(context),
    ]  # fmt: skip
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env={**os.environ, "DOCKER_BUILDKIT": "1"})
    said = subprocess.run([engine, "image", "inspect", f"{name}:latest"], capture_output=True, check=True).stdout
    image = json.loads(said)[0]
    return next(iter(image.get("RepoDigests") or []), "sha256:" + image["Id"].removeprefix("sha256:"))


def main(dist: Path, folder: Path, base: str = LOCAL_BASE, *, node: bool = False) -> int:
    try:
        if node:
            folder.mkdir(parents=True, exist_ok=True)
            image = build(usable_engine(), base, folder, dist, NODE_NAME, ROOT / "deploy" / "Containerfile.node")
            print(f"{NODE_NAME}:latest is {image}, on {base}")
            return 0
        count = fill(dist, folder)
        image = build(usable_engine(), base, folder, folder, NAME, folder / "Containerfile")
    except Unusable as reason:
        print(f"image: NOT BUILT here: {reason}", file=sys.stderr)
        return 0 if os.environ.get("IMAGE_OPTIONAL") == "1" else os.EX_UNAVAILABLE
    (folder / "image").write_text(image + "\n")
    print(f'{count} distributions on {base}; for the settings:\n[job]\nexecutor = "container"\nimage = "{image}"')
    return 0


def why() -> str:
    try:
        return f"here it can: {usable_engine()} answers"
    except Unusable as reason:
        return f"here it cannot: {reason}"


if __name__ == "__main__":
    if sys.argv[1:] == ["--why"]:
        print(f"not part of this: make image-test (five minutes), the job in its container; {why()}")
        sys.exit()
    words = [word for word in sys.argv[1:] if word != "--node"]
    if len(words) not in (2, 3):
        sys.exit(__doc__)
    sys.exit(main(Path(words[0]), Path(words[1]), *words[2:], node="--node" in sys.argv))
