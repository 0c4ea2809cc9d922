"""Write the JSON Schemas of the job's contract and the OpenAPI document into config/schema; `--check` only compares."""

import json
import sys
from pathlib import Path

from analysis.contract import JobRequest, JobResult
from dicom_node.web.app import openapi_document
from models.manifest import Manifest

FOLDER = Path(__file__).resolve().parent.parent / "config" / "schema"
SCHEMAS = {"job": JobRequest, "result": JobResult, "bundle": Manifest}


def documents() -> dict[str, object]:
    """File name -> what it has to hold."""
    found: dict[str, object] = {f"{name}.schema.json": model.model_json_schema() for name, model in SCHEMAS.items()}
    return found | {"openapi.json": openapi_document()}


def main() -> int:
    FOLDER.mkdir(exist_ok=True)
    stale = []
    for name, document in documents().items():
        text = json.dumps(document, indent=1, sort_keys=True) + "\n"
        path = FOLDER / name
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            stale.append(path.name)
            if "--check" not in sys.argv:
                path.write_text(text, encoding="utf-8")
    if stale and "--check" in sys.argv:
        sys.stderr.write(f"stale: {', '.join(stale)}; run: make schema\n")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
