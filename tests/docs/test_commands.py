"""Every cloudmanager command that a page shows is one that the command line understands."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
import typer.main
from typer.core import TyperGroup

from cloudmanager.cli.app import app
from tests.checkout import ROOT
from tests.docs.test_pages import PAGES, named

ROOT_COMMAND = typer.main.get_command(app)
USAGE_ERROR: type[Exception] = typer.BadParameter.__mro__[1]
"""typer shows only this kind of it: newer versions bring a click of their own."""
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
INLINE = re.compile(r"`(cloudmanager [^`]+)`")
OPERATORS = set("();|&<>")
NO_SHELL = {"text", "toml", "python", "json", "mermaid", "yaml"}


def blocks(text: str) -> Iterator[str]:
    for language, body in FENCE.findall(text):
        if language not in NO_SHELL:
            yield body
    without = FENCE.sub("", text)
    yield "\n".join(line[4:] for line in without.splitlines() if line.startswith("    "))


def words_of(line: str) -> list[list[str]]:
    """The commands of a line of shell, each as its words, up to a redirection."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="();|&<>")
    lexer.whitespace_split = True
    commands: list[list[str]] = [[]]
    for word in lexer:
        if set(word) <= OPERATORS:
            commands.append([])
        else:
            commands[-1].append(word)
    return commands


def shown(page: Path) -> Iterator[list[str]]:
    """The arguments of each command of ours that a block of the page shows."""
    for body in blocks(page.read_text()):
        for line in re.findall(r"^.*(?<![\w/.-])(?:\.venv/bin/)?cloudmanager [a-z-].*$", _joined(body), re.MULTILINE):
            for command_words in words_of(line.replace("$(", " ( ").replace("`", " ")):
                names = [word.removeprefix(".venv/bin/") for word in command_words]
                if "cloudmanager" in names:
                    yield command_words[names.index("cloudmanager") + 1 :]


def _joined(body: str) -> str:
    """A command goes on after a backslash, and in an open quotation."""
    lines = body.replace("\\\n", " ").splitlines()
    whole: list[str] = []
    for line in lines:
        if whole and whole[-1].count("'") % 2 and "cloudmanager " in whole[-1]:
            whole[-1] += f"; {line.strip()}"
        else:
            whole.append(line)
    return "\n".join(whole)


def parse(arguments: list[str]) -> None:
    """Raises a usage error for what the command line would refuse before it begins."""
    command, name, parent = ROOT_COMMAND, "cloudmanager", None
    while True:
        context = command.make_context(name, list(arguments), parent=parent)
        if not isinstance(command, TyperGroup):
            return
        arguments = [*context._protected_args, *context.args]
        found_name, found, arguments = command.resolve_command(context, arguments)
        assert found is not None
        command, name, parent = found, found_name or "", context


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_a_command_that_a_block_shows_is_understood(page: Path) -> None:
    for arguments in shown(page):
        try:
            parse(arguments)
        except USAGE_ERROR as error:
            pytest.fail(f"{named(page)}: cloudmanager {shlex.join(arguments)}: {error}")


def test_the_blocks_show_commands() -> None:
    assert sum(len(list(shown(page))) for page in PAGES) > 20


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_a_command_that_a_sentence_names_exists(page: Path) -> None:
    """In a sentence arguments are left out, so the words are compared as far as they name commands and options."""
    prose = FENCE.sub("", page.read_text())
    for text in INLINE.findall(prose):
        command = ROOT_COMMAND
        command_words = [word.strip(",…") for word in text.split()[1:]]
        while command_words and isinstance(command, TyperGroup) and re.fullmatch("[a-z][a-z-]*", command_words[0]):
            assert command_words[0] in command.commands, f"{named(page)}: `{text}`"
            command = command.commands[command_words.pop(0)]
        options = {name for parameter in command.params for name in parameter.opts} | {"--help"}
        options |= {name for parameter in ROOT_COMMAND.params for name in parameter.opts}
        options |= {"--install-completion", "--show-completion"}
        before_others = command_words[: command_words.index("--")] if "--" in command_words else command_words
        for word in before_others:
            if word.startswith("--"):
                assert word.partition("=")[0] in options, f"{named(page)}: `{text}`"


def test_a_command_that_does_not_exist_is_found() -> None:
    for wrong in (["conjure"], ["release"], ["run", "local:a", "--acess", "scratch", "--", "true"]):
        with pytest.raises(USAGE_ERROR):
            parse(wrong)


def test_every_command_is_on_the_page_of_the_command_line() -> None:
    page = (ROOT / "docs" / "command-line.md").read_text()
    assert isinstance(ROOT_COMMAND, TyperGroup)
    for name, command in ROOT_COMMAND.commands.items():
        assert command.hidden or re.search(rf"`(cloudmanager )?{name}\b", page), name
