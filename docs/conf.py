"""The documentation as HTML (`make docs`). Pages are plain Markdown that a forge shows as well; nothing is fetched."""

import sys
from pathlib import Path

from pygments.lexers.special import TextLexer
from sphinx.application import Sphinx

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from config.identity import VERSION

project = "Prognode"
author = "the Prognode project"
version = release = VERSION
copyright = "the Prognode project. Research use only - not for diagnostic use."

extensions = ["myst_parser"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["build"]
myst_heading_anchors = 3  # as forges make them: `operations.md#log-events`
myst_enable_extensions = ["tasklist"]
nitpicky = True
# Code blocks without a language are commands and their output, not Python.
highlight_language = "none"

html_theme = "furo"  # its fonts are the system's, its scripts its own
html_static_path = ["_static"]
html_css_files = ["prognode.css"]
html_title = f"Prognode {VERSION}"
html_copy_source = False
html_show_sphinx = False
html_last_updated_fmt = None  # the same pages on every day


def setup(app: Sphinx) -> None:
    """Pygments knows no HL7 v2; the fences of hl7.md name it for readers and for a test."""
    app.add_lexer("hl7", TextLexer)
