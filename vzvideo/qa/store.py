"""Visual tokens on disk: safetensors files, and a bounded cache addressed by content and settings.

Nothing is ever unpickled. A file appears whole or not at all, and one that has changed since by a
single bit is refused.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError
from safetensors.torch import load as deserialize
from safetensors.torch import save as serialize
from torch import Tensor

from vzvideo.errors import TokenFileError
from vzvideo.types import MAX_HEADER_BYTES, VisualTokens

FORMAT = 1
_ARRAYS = ("frame", "role", "patch", "pts_s")
_BLOCKS, _BLOCK_BYTES = 64, 1 << 16
_ABANDONED_S = 3600.0  # no file takes so long to be written
# How files begin whose pictures lie in others: HLS playlists, FFmpeg's lists, DASH manifests, SDP.
_PLAYLISTS = (b"#EXTM3U", b"ffconcat", b"<?xml", b"<MPD", b"v=0")


def save(tokens: VisualTokens, path: Path, more: Mapping[str, Tensor] | None = None) -> None:
    """Writes `tokens` to `path`, replacing what is there; TokenFileError where it cannot.

    more: tensors that `load_with_extras` gives back.
    """
    tensors = {**(more or {}), "features": tokens.features.detach().cpu().contiguous()}
    for name in _ARRAYS:
        tensors[name] = torch.tensor(getattr(tokens, name))  # a copy: no two may share memory
    if (tokens.until > tokens.frame + 1).any():  # else a reader of before understands the file
        tensors["until"] = torch.tensor(tokens.until)
    about = {
        "format": FORMAT,
        "grid": tokens.grid,
        "source": tokens.source,
        "settings": tokens.settings,
    }
    text = json.dumps(about)
    content = serialize(tensors, {"vzvideo": text, "sha256": _digest(text, tensors)})
    try:
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".part-") as scratch:
            part = Path(scratch) / path.name
            part.write_bytes(content)
            part.replace(path)
    except OSError as error:
        raise TokenFileError(
            f"{path} cannot be written: {error.strerror or error}", code="disk"
        ) from None


def load(path: Path) -> VisualTokens:
    """Reads what `save` wrote, on the CPU; TokenFileError where it is damaged or something else."""
    return load_with_extras(path)[0]


def load_with_extras(path: Path) -> tuple[VisualTokens, dict[str, Tensor]]:
    """As `load`, with what was saved beside the tokens."""
    try:
        with path.open("rb") as file:  # opened once: another process may replace it meanwhile
            metadata = _metadata(file)
            about = json.loads(metadata["vzvideo"])
            if about["format"] > FORMAT:
                raise TokenFileError(
                    f"{path}: written by a newer vzvideo (format {about['format']}, this one reads "
                    f"{FORMAT}); upgrade vzvideo or encode the video again"
                )
            file.seek(0)
            tensors = deserialize(file.read())
        if metadata["sha256"] != _digest(metadata["vzvideo"], tensors):
            raise ValueError("its checksum does not match")
        tokens = VisualTokens(
            features=tensors.pop("features"),
            **{name: tensors.pop(name).numpy() for name in _ARRAYS},
            until=tensors.pop("until").numpy() if "until" in tensors else None,  # type: ignore[arg-type]
            grid=(about["grid"][0], about["grid"][1]),
            source=about["source"],
            settings=about["settings"],
        )
        return tokens, tensors
    except FileNotFoundError:
        raise TokenFileError(f"{path}: no such file", code="not_found") from None
    except (SafetensorError, OSError, LookupError, ValueError, TypeError, RuntimeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise TokenFileError(
            f"{path}: not a file of visual tokens, or damaged ({reason}); encode the video again"
        ) from None


def _metadata(file: BinaryIO) -> dict[str, str]:
    """What a safetensors file says of itself, the weights of a model not read for it."""
    size = int.from_bytes(file.read(8), "little")
    if size > MAX_HEADER_BYTES:
        raise ValueError("no safetensors")
    header = json.loads(file.read(size))
    metadata: dict[str, str] = header.get("__metadata__", {}) if isinstance(header, dict) else {}
    if "vzvideo" not in metadata:
        raise ValueError("another program's safetensors")
    return metadata


def _digest(about: str, tensors: Mapping[str, Tensor]) -> str:
    """A checksum of everything in a file; safetensors itself keeps none."""
    digest = hashlib.sha256(about.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def is_own_file(path: Path) -> bool:
    """Whether a file was written by `save`, as far as its header says."""
    try:
        with path.open("rb") as file:
            return "vzvideo" in _metadata(file)
    except (OSError, ValueError):
        return False


def describe(path: Path) -> dict[str, Any]:
    """What a file of tokens says of itself: its source, and the settings that made it."""
    try:
        with path.open("rb") as file:
            about = json.loads(_metadata(file)["vzvideo"])
    except (OSError, ValueError, LookupError):
        return {"source": "damaged", "model": "?"}
    return {"source": about["source"], "model": "?"} | about["settings"]


def is_playlist(path: Path) -> bool:
    """Whether a file only names others, which may change while it stays as it is."""
    with path.open("rb") as file:
        return file.read(64).removeprefix(b"\xef\xbb\xbf").lstrip().startswith(_PLAYLISTS)


def content_hash(path: Path) -> str:
    """A hash by which a file is known: its size, time of change, and 64 blocks spread over it.

    Reads 4 MB at most, of a film as of a clip. An edit of a larger file goes unnoticed where it
    lies between the blocks and size and time of change are put back as they were.
    """
    stat = path.stat()
    digest = hashlib.sha256(f"{stat.st_size} {stat.st_mtime_ns}".encode())
    with path.open("rb") as file:
        for number in range(_BLOCKS):
            file.seek(stat.st_size * number // _BLOCKS)
            digest.update(file.read(_BLOCK_BYTES))
    return digest.hexdigest()


class TokenCache:
    """Visual tokens by key, at most `limit_bytes` of them; the longest unused go first.

    Safe to share between processes: files are replaced whole, and one that has gone is a miss.
    """

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        self.folder = folder
        self.limit_bytes = limit_bytes

    @staticmethod
    def key(source: Path, settings: Mapping[str, Any]) -> str:
        """The key of a file encoded with `settings` (JSON)."""
        text = json.dumps([FORMAT, content_hash(source), settings], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def get(self, key: str) -> VisualTokens | None:
        """What was kept, or None; a damaged file counts as nothing and is removed."""
        path = self._path(key)
        try:
            tokens = load(path)
        except TokenFileError:
            tokens = None
        with contextlib.suppress(OSError):  # a folder that may only be read serves as well
            if tokens is None:
                path.unlink(missing_ok=True)
            else:
                os.utime(path)
        return tokens

    def put(self, key: str, tokens: VisualTokens) -> None:
        """Keeps tokens. A cache that cannot be written costs time and breaks nothing."""
        with contextlib.suppress(OSError, TokenFileError):
            self.folder.mkdir(parents=True, exist_ok=True)
            save(tokens, self._path(key))
            self._shrink()

    def files(self) -> list[Path]:
        """What is kept, the longest unused first."""
        found = []
        for path in self.folder.glob("*.safetensors"):
            with contextlib.suppress(OSError):
                found.append((path.stat().st_mtime, path))
        return [path for _, path in sorted(found)]

    def clear(self) -> None:
        """Keeps nothing any more."""
        for path in self.files():
            path.unlink(missing_ok=True)

    def _shrink(self) -> None:
        for scratch in self.folder.glob(".part-*"):
            with contextlib.suppress(OSError):  # of a writer that was killed
                if time.time() - scratch.stat().st_mtime > _ABANDONED_S:
                    shutil.rmtree(scratch)
        files = {path: path.stat().st_size for path in self.files() if path.exists()}
        total = sum(files.values())
        for path, size in files.items():
            if total <= self.limit_bytes:
                break
            path.unlink(missing_ok=True)
            total -= size

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.safetensors"
