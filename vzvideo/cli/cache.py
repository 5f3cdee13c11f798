"""`vzvideo cache`: the visual tokens that are kept for the next question."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from vzvideo.cli.options import Json, echo_json
from vzvideo.errors import SettingsError
from vzvideo.words import format_duration, pluralize


def cache(
    action: Annotated[str, typer.Argument(help="size, list or clear.")] = "size",
    as_json: Json = False,
) -> None:
    """Say what the token cache holds, or clear it; models stay."""
    if action not in ("size", "list", "clear"):
        raise SettingsError(f"cache {action!r}: choose size, list or clear")
    from vzvideo.models import weights
    from vzvideo.qa.store import TokenCache, describe

    kept = TokenCache(weights.cache_root() / "tokens", limit_bytes=0)
    files = kept.files()
    size_bytes = sum(path.stat().st_size for path in files)
    if action == "list":
        for path in files:
            about = describe(path)
            if as_json:
                echo_json({"file": str(path)} | about)
            else:
                age = format_duration(time.time() - path.stat().st_mtime)
                typer.echo(f"{about['source']}  {about['model']}, {age} ago  {path.name[:12]}")
        return
    if action == "clear":
        kept.clear()
    if as_json:
        echo_json({"folder": str(kept.folder), "files": len(files), "bytes": size_bytes})
    else:
        done = "cleared of " if action == "clear" else ""
        typer.echo(
            f"{kept.folder}: {done}{pluralize(len(files), 'video')}, {size_bytes / 1e6:.1f} MB"
        )
