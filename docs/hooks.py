"""What mkdocs does to pages: the command line's own help, and links that lead out of the site."""

import io
import os
import re
import textwrap
from contextlib import redirect_stdout, suppress
from unittest.mock import patch

from splat2d import diffusion_cli
from splat2d.cli import COMMANDS, main

WIDTH = 80  # characters of a line of help
COMMANDS_HERE = "<!-- the help of every command -->"
OUTSIDE = re.compile(r"\[([^\]]+)\]\(\.\./[^)]*\)")  # a link to a file of the repository beside docs/


def on_page_markdown(markdown: str, **_: object) -> str:
    if COMMANDS_HERE in markdown:
        helps = [f"## {name}\n\n```text\n{help_of(name)}\n```\n" for name in all_commands()]
        markdown = markdown.replace(COMMANDS_HERE, "\n".join(helps))
    return OUTSIDE.sub(r"`\1`", markdown)


def all_commands() -> list[str]:
    """Their names; those of a group follow it."""
    groups = {"diffusion": diffusion_cli.COMMANDS}
    return [name for each in COMMANDS for name in (each, *(f"{each} {inner}" for inner in groups.get(each, ())))]


def help_of(command: str) -> str:
    """What `splat2d COMMAND --help` prints."""
    text = io.StringIO()
    with patch.dict(os.environ, COLUMNS=str(WIDTH), NO_COLOR="1"), redirect_stdout(text), suppress(SystemExit):
        main([*command.split(), "--help"])
    return "\n".join(textwrap.fill(line, WIDTH) if len(line) > WIDTH else line for line in text.getvalue().splitlines())
