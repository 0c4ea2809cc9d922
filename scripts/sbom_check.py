"""python scripts/sbom_check.py SBOM ENVIRONMENT: valid CycloneDX 1.6, and no installed distribution is left out.

Runs in the environment of the tools (build/tools), which has the CycloneDX schemas.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

LISTING = "import importlib.metadata as m, json; print(json.dumps([d.name for d in m.distributions()]))"


def main(sbom: str, environment: str) -> None:
    text = Path(sbom).read_text(encoding="utf-8")
    error = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
    if error is not None:
        sys.exit(f"sbom: {sbom} is not valid CycloneDX 1.6: {error}")
    found = json.loads(text)
    named = {plain(each["name"]) for each in found["components"]}
    command = [f"{environment}/bin/python", "-c", LISTING]
    installed = {plain(name) for name in json.loads(subprocess.check_output(command))}
    missing = installed - named - {"prognode"}
    if missing:
        sys.exit(f"sbom: {sbom} leaves out {', '.join(sorted(missing))}")
    print(f"{sbom}: CycloneDX {found['specVersion']}, {len(named)} components, valid")
    unlicensed = sorted(each["name"] for each in found["components"] if not each.get("licenses"))
    if unlicensed:
        print(f"without a licence in their metadata: {', '.join(unlicensed)}")


def plain(name: str) -> str:
    """A distribution's name as PEP 503 compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


if __name__ == "__main__":
    main(*sys.argv[1:])
