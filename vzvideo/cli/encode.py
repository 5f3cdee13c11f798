"""`vzvideo encode`: a video's visual tokens as a file. The work is done by `qa`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from vzvideo.cli.answers import gaps
from vzvideo.cli.options import check, echo_path, load, progress_bars, say, with_settings
from vzvideo.errors import SettingsError
from vzvideo.words import pluralize


@with_settings()
def encode(
    video: Annotated[str, typer.Argument(help="File or URL.")],
    settings: Any,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="File to write.")] = None,
) -> None:
    """Compress a video once; `ask` and `chat` take the file in its place."""
    from vzvideo.corpus.manifest import ENDINGS
    from vzvideo.qa import store
    from vzvideo.types import is_token_file

    target = out or Path(Path(video.split("?")[0]).stem + ".vz.safetensors")
    if not target.parent.is_dir():
        raise SettingsError(f"{target}: there is no folder {target.parent}")
    if target.exists() and not store.is_own_file(target):
        raise SettingsError(f"{target}: is there, and no file of visual tokens; give another name")
    if target.suffix.lower() in ENDINGS:
        raise SettingsError(f"{target}: is a video's name, and tokens are no video")
    check(video, settings)
    if "://" not in video and is_token_file(Path(video)):
        raise SettingsError(f"{video}: holds visual tokens already; `ask` and `chat` take it")
    qa = load(settings)
    with progress_bars() as progress:
        encoded = qa.encode_timed(video, progress=progress)
    store.save(encoded.tokens, target)
    tokens = encoded.tokens
    echo_path(target)
    say(
        f"{pluralize(tokens.frames, 'frame')}, {tokens.tokens_before} -> {len(tokens)} tokens, "
        f"{target.stat().st_size / 1024:.0f} KB{gaps(encoded)}"
    )
