"""The validators of the acceptance rule as functions: dciodvfy, dsrdump, PixelMed. A missing tool skips the test.

`python -m tests.validators FOLDER` holds every object below a folder against them (`make validate`).
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from pydicom import dcmread

PIXELMED = Path("/usr/share/java/pixelmed.jar")

# Warnings that are known and harmless, each with its reason. Anything else fails the test.
KNOWN_WARNINGS = (
    r"Unrecognized defined term = <99PROGNODE>",  # any private coding scheme designator
    r"would be needed to build DICOMDIR",  # the study came without date, time or ID, and we invent none
    r"Retired Person Name form",  # the source's own PatientName, without carets
    r"</Laterality\(0020,0060\)> - is only permitted to be empty when actually unknown",  # it is: no CT, no body part
    r"RISK_GROUP,99PROGNODE.*Content Item not in template",  # TID 1501 qualitative evaluations came after PixelMed 2022
    r"Measurement Group.*\(11100[013],DCM.*Content Item not in template",  # TID 4019 at group level, likewise
    r"\(es,RFC5646,.*different code meaning",  # CID 5000 of PixelMed 2022 says "Castilian"
    r"\(121232,DCM.*different code meaning",  # "Source Series" against "Source series": only the case differs
)


def dciodvfy(path: Path) -> list[str]:
    """Errors, and warnings that are not known, of dicom3tools' dciodvfy."""
    lines = _run(["dciodvfy", "-new", str(path)])
    return _unknown(lines)


def pixelmed(path: Path) -> list[str]:
    """Errors, and warnings that are not known, of PixelMed's SR validator (6 to 30 s)."""
    if not PIXELMED.exists():
        pytest.skip("PixelMed is not here (Debian: libpixelmed-java)")
    limits = [f"-Djdk.xml.xpath{name}=0" for name in ("ExprOpLimit", "ExprGrpLimit", "TotalOpLimit")]
    options = ["-checkambiguoustemplate", "-checkcontentitemorder", "-checktemplateid"]
    validator = ["-cp", str(PIXELMED), "com.pixelmed.validate.DicomSRValidator", *options]
    lines = _run(["java", *limits, "-Xss64m", "-Xmx3g", "-XX:+UseSerialGC", *validator, str(path)], seconds=600)
    # The exit code is 0 whatever it finds, so silence must not pass for success.
    assert any("Root Template" in line or "IOD" in line for line in lines), lines[-3:]
    return _unknown(lines) + [line for line in lines if "Exception" in line]


def dsrdump(path: Path) -> str:
    """The SR's tree as text; fails where dcmtk cannot read it."""
    return "\n".join(_run(["dsrdump", str(path)], must_succeed=True))


def dsr2text(path: Path) -> str:
    """The SR as dcmtk renders it for people, tags taken out, one space between words."""
    page = "\n".join(_run(["dsr2html", "--quiet", str(path)], must_succeed=True))
    return " ".join(re.sub(r"<[^>]+>", " ", page).split())


def _run(command: list[str], must_succeed: bool = False, seconds: float = 120) -> list[str]:
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not here (Debian: dicom3tools, dcmtk, default-jre-headless)")
    done = subprocess.run(command, capture_output=True, check=False, timeout=seconds)
    if must_succeed:
        assert done.returncode == 0, done.stderr.decode(errors="replace")
    return (done.stdout + done.stderr).decode(errors="replace").splitlines()


def _unknown(lines: list[str]) -> list[str]:
    findings = [line for line in lines if line.startswith(("Error", "Warning"))]
    return [
        line
        for line in findings
        if line.startswith("Error") or not any(re.search(known, line) for known in KNOWN_WARNINGS)
    ]


def findings(path: Path) -> list[str]:
    """What they find in an object; SRs take PixelMed's half a minute."""
    if dcmread(path, specific_tags=["Modality"]).Modality != "SR":
        return dciodvfy(path)
    dsrdump(path)
    return dciodvfy(path) + pixelmed(path)


def main(folder: Path) -> int:
    """Print the findings in the objects (.dcm) below a folder; the exit status, 1 where there are any."""
    paths = sorted(folder.rglob("*.dcm"))
    if not paths:
        print(f"{folder}: no objects here; make demo writes some")
        return os.EX_NOINPUT
    found = 0
    for path in paths:
        lines = findings(path)
        found += len(lines)
        print("\n  ".join([f"{path.relative_to(folder)}: {'ok' if not lines else ''}", *lines]), flush=True)
    print(f"{len(paths)} objects, {found} findings")
    return 1 if found else os.EX_OK


if __name__ == "__main__":
    try:
        sys.exit(main(Path(sys.argv[1])))
    except pytest.skip.Exception as missing:
        print(missing)
        sys.exit(os.EX_UNAVAILABLE)
