"""`vzvideo show`: what the model sees, as a page, a contact sheet or numbers."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Annotated, Any

import typer

from vzvideo.cli.options import (
    ANSWERING,
    check,
    echo_json,
    echo_path,
    progress_bars,
    say,
    with_settings,
)
from vzvideo.errors import SettingsError
from vzvideo.words import describe_cropped


@with_settings(**ANSWERING)
def show(
    video: Annotated[str, typer.Argument(help="File or URL.")],
    settings: Any,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="Page to write (NAME.html, in this folder).")
    ] = None,
    questions: Annotated[
        list[str] | None,
        typer.Option("--ask", help="Also ask this, and show what the answer drew on."),
    ] = None,
    png: Annotated[
        Path | None, typer.Option("--png", help="A contact sheet; the page then only with -o.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="The numbers on stdout; the page then only with -o.")
    ] = False,
) -> None:
    """Show what the model sees: the patches that are kept, what the others went into, and why."""
    from vzvideo.video.base import short_name

    if questions and len(questions) > 1:
        raise SettingsError(f"--ask: {len(questions)} given; a page shows what one answer drew on")
    ask = questions[0] if questions else None
    page = out or (None if png or as_json else Path(f"{Path(short_name(video)).stem}.html"))
    if png and png.suffix.lower() != ".png":
        raise SettingsError(f"--png {png}: name it .png")
    if png and page and png.resolve() == page.resolve():
        raise SettingsError(f"{png}: page and sheet would be one file; give two names")
    _check(page, b'content="vzvideo show"', "page of vzvideo show")
    _check(png, b"\x89PNG", "PNG")
    if page and page.suffix.lower() not in (".html", ".htm"):
        raise SettingsError(f"-o {page}: name it .html; `--png` writes a picture")
    check(video, settings)  # before what takes a second to import
    from vzvideo.qa import loading
    from vzvideo.qa.asking import validate_question
    from vzvideo.show import look, redundancy

    question = "?" if ask is None else validate_question(ask)
    look.check(video)
    with progress_bars() as progress:
        part: Any = "tower" if ask is None else "both"
        qa = loading.load(settings=settings, progress=progress, say=say, part=part)
        looked, tokens = look.inspect_video(qa, video, question=question, progress=progress)
        answer = evidence = None
        if ask is not None:
            answer = qa.ask(tokens, question)
            evidence = qa.evidence(tokens, answer)
    if answer and not as_json:
        typer.echo(f"{answer.text} [{evidence}]")
    if page:
        from vzvideo.show.page import page as made

        _write(page, made(looked, answer, evidence).encode("utf-8", "replace"))
        echo_path(page, err=as_json)
    if png:
        from vzvideo.show.sheet import sheet

        held = io.BytesIO()
        sheet(looked, evidence).save(held, "PNG")
        _write(png, held.getvalue())
        echo_path(png, err=as_json)
    if as_json:
        about = {"source": video, "model": looked.model} | redundancy.as_dict(looked)
        about["cropped"] = looked.cropped
        about["frame_times_s"] = [round(float(time_s), 6) for time_s in looked.pts_s]
        if answer and evidence:
            about |= {"question": answer.question, "answer": answer.text}
            about |= evidence.about()
        echo_json(about)
    elif cropped := describe_cropped(looked.cropped):
        say(cropped)


def _check(target: Path | None, mark: bytes, kind: str) -> None:
    """Says at once that a file cannot be written, or would be lost by it."""
    if target is None:
        return
    try:
        if not target.resolve().parent.is_dir():
            raise SettingsError(f"{target}: there is no folder {target.parent}")
        if target.exists():
            # A pipe would be waited for, and a device is no place to put a page.
            if not target.is_file():
                kind = "a folder" if target.is_dir() else "no file"
                raise SettingsError(f"{target}: is {kind}; give another name")
            with target.open("rb") as file:
                if mark not in file.read(1000):
                    raise SettingsError(f"{target}: is there, and no {kind}; give another name")
    except OSError as error:
        raise SettingsError(f"{target}: {error.strerror}; give another name") from None


def _write(target: Path, content: bytes) -> None:
    try:
        target.write_bytes(content)
    except OSError as error:
        raise SettingsError(f"{target}: {error.strerror}; choose another file") from None
