"""`vzvideo chat`: a conversation about one video. The work is done by `qa`."""

from __future__ import annotations

import json
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vzvideo.cli.answers import print_facts, print_failure, print_stream
from vzvideo.cli.options import ANSWERING, Json, check, load, progress_bars, say, with_settings
from vzvideo.errors import VzVideoError
from vzvideo.words import pluralize

if TYPE_CHECKING:
    from vzvideo.types import Answer


@with_settings(**ANSWERING)
def chat(
    video: Annotated[str, typer.Argument(help="File, URL, or what `encode` wrote.")],
    settings: Any,
    as_json: Json = False,
) -> None:
    """Talk about a video; every question after the first costs only itself."""
    check(video, settings)
    qa = load(settings)
    with progress_bars() as progress:
        talk = qa.chat(video, progress=progress)
    interactive = sys.stdin.isatty() and sys.stdout.isatty()
    if interactive:
        with suppress(ImportError):
            import readline  # noqa: F401  # gives `input` its editing and history
        say("Ask away; Ctrl-C ends an answer, Ctrl-D the conversation, /help says what else.")
    status = 0
    said: list[Answer] = []
    while question := _next_line(interactive):
        if question.startswith("/"):
            match question.split(maxsplit=1):
                case ["/exit" | "/quit"]:
                    break
                case ["/reset"]:
                    talk, said = qa.chat(talk.encoded), []
                    say("Begun anew.")
                case ["/save", path]:
                    _save(said, Path(path))
                case _:
                    say(_CHAT_HELP)
            continue
        try:
            asking = talk.start(question)
            print_stream(asking, as_json)
            said.append(asking.result)
            print_facts(asking.result, asking.encoded)
        except KeyboardInterrupt:  # of a person who has heard enough of this answer
            if not interactive:
                raise
            typer.echo()
        except VzVideoError as error:  # one bad question ends no conversation
            if as_json:
                print_failure(video, question, "generate", error)
            typer.echo(f"vzvideo: {error}", err=True)
            status = 1
    raise typer.Exit(status)


_CHAT_HELP = """\
/reset       begin anew, without what was said
/save FILE   write the conversation, one JSON object a line
/exit        end it (so do Ctrl-D and an empty line)"""


def _save(said: list[Answer], path: Path) -> None:
    lines = [json.dumps({"question": a.question, "answer": a.text}) + "\n" for a in said]
    try:
        path.write_text("".join(lines), encoding="utf-8")
    except OSError as error:
        say(f"{path}: {error.strerror}")
    else:
        say(f"{pluralize(len(said), 'answer')} in {path}")


def _next_line(interactive: bool) -> str:
    """The next question, or an empty text where there is no more."""
    if interactive:
        try:
            line = input("> ").strip()
        except EOFError:
            return ""
        return "" if line.lower() in ("exit", "quit") else line
    return next((line.strip() for line in sys.stdin if line.strip()), "")
