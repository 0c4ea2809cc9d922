"""`prognode conformance`: the DICOM conformance statement of a node, from its settings."""

import os
from pathlib import Path
from typing import Annotated

import typer

from dicom_node.cli_common import Config, settings_of, stop


def add_to(app: typer.Typer) -> None:
    """Hang the command on the program."""
    app.command("conformance")(conformance)


def conformance(
    config: Config = None,
    out: Annotated[Path | None, typer.Option("--out", help="File to write; default: standard output.")] = None,
) -> None:
    """Write the DICOM conformance statement (PS3.2) of this node as Markdown: what it negotiates with these settings.

    Example: prognode conformance --config /etc/prognode/prognode.toml --out conformance.md
    """
    from dicom_node.conformance import statement

    text = statement(settings_of(config))
    if out is None:
        print(text, end="")
        return
    try:
        out.write_text(text, encoding="utf-8")
    except OSError as error:
        stop(f"{out}: {error.strerror}; give a file in a folder that you may write", os.EX_CANTCREAT)
    print(f"{out} written")
