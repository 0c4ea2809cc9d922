"""python scripts/manpages.py FOLDER: prognode.1 and its bash completion, made from the commands' own help.

Runs in an environment in which prognode is installed.
"""

import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import typer.main

from dicom_node.cli import app

END = r"""
.SH FILES
.TP
.I /etc/prognode/prognode.toml
Settings. Every key with its default and a comment: /usr/share/doc/prognode/prognode.toml.
.TP
.I /etc/prognode/secrets/{receive,work,web}
Keys, tokens and passwords, each in the folder of the process that needs it, readable by root alone.
.TP
.I /var/lib/prognode
The spool: studies, store, audit trail. Removing the package leaves it.
.SH ENVIRONMENT
.TP
.B PROGNODE_CONFIG
The settings file, where \-\-config is not given.
.SH EXIT STATUS
0, or what sysexits.h says: 64 wrong use, 65 wrong data, 66 no input, 69 a service is missing, 73 cannot write, 78 wrong
settings.
.SH EXAMPLE
sudo \-u prognode prognode status
"""


os.environ.update(COLUMNS="90", TERM="dumb")  # how wide the help is


def leaves(command: Any, words: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Each command, as the words that it is called with."""
    found = [words] if words else []
    for name, each in getattr(command, "commands", {}).items():
        found += leaves(each, (*words, name))
    return found


def plain(text: str) -> str:
    """Text that roff prints as it is."""
    lines = text.replace("\\", r"\e").replace("-", r"\-").splitlines()
    return "\n".join(rf"\&{line}" if line.startswith((".", "'")) else line for line in lines)


def page(commands: list[tuple[str, ...]]) -> str:
    parts = [
        f'.TH PROGNODE 1 "" "prognode {version("prognode")}" "User Commands"',
        r".SH NAME",
        r"prognode \- DICOM node that scores a CT and its tumour contour; research use only",
        ".SH SYNOPSIS",
        ".B prognode\n.I command\n[options]",
        ".SH COMMANDS",
    ]
    for words in commands:
        program = [sys.executable, "-c", "from dicom_node.cli import main; main()", *words, "--help"]
        said = subprocess.run(program, check=True, capture_output=True, text=True).stdout
        said = said.replace("Usage: -c ", "Usage: prognode ")
        parts += [f".SS {plain(' '.join(words))}", ".nf", plain(said.strip()), ".fi"]
    return "\n".join(parts) + END


def completion(commands: list[tuple[str, ...]]) -> str:
    """Command words, options of a command, and file names."""
    options = {
        words: sorted({option for each in parameters(words) for option in [*each.opts, *each.secondary_opts]
                       if option.startswith("--")})
        for words in commands
    }  # fmt: skip
    options[()] = ["--version"]
    cases = [f'    "{" ".join(words)}") words="{" ".join([*_below(words, commands), *options[words], "--help"])}" ;;'
             for words in options]  # fmt: skip
    return "\n".join(
        [
            "# bash completion of prognode(1); made from its help.",
            "_prognode() {",
            '  local current="${COMP_WORDS[COMP_CWORD]}" called="" words word',
            '  for word in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do',
            '    [[ $word == -* ]] || { called+="${called:+ }$word"; }',
            "  done",
            "  while :; do",
            '    case "$called" in',
            *cases,
            "    esac",
            "    [[ $words || ! $called ]] && break",
            '    [[ $called == *" "* ]] && called="${called% *}" || called=""',
            "  done",
            '  mapfile -t COMPREPLY < <(compgen -W "$words" -- "$current"; compgen -f -- "$current")',
            "}",
            "complete -o filenames -F _prognode prognode",
            "",
        ]
    )


def parameters(words: tuple[str, ...]) -> list[Any]:
    command: Any = typer.main.get_command(app)
    for word in words:
        command = command.commands[word]
    return list(command.params)


def _below(words: tuple[str, ...], commands: list[tuple[str, ...]]) -> list[str]:
    return [each[-1] for each in commands if each[:-1] == words]


def main(folder: Path) -> None:
    commands = leaves(typer.main.get_command(app))
    (folder / "prognode.1").write_text(page(commands), encoding="utf-8")
    (folder / "prognode.bash").write_text(completion(commands), encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
