"""Visual tokens on disk: safetensors files, and a bounded cache addressed by content and settings.

Nothing is ever unpickled. A file appears whole or not at all.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from vzvideo.errors import TokenFileError
from vzvideo.types import VisualTokens

FORMAT = 1
_ARRAYS = {"frame": np.int32, "role": np.int8, "patch": np.int32, "pts_s": np.float64}
_BLOCKS, _BLOCK_BYTES = 64, 1 << 16


def save(tokens: VisualTokens, path: Path) -> None:
    """Writes `tokens` to `path`, replacing what is there; TokenFileError where it cannot."""
    tensors = {"features": tokens.features.detach().cpu().contiguous()}
    for name in _ARRAYS:
        tensors[name] = torch.from_numpy(np.ascontiguousarray(getattr(tokens, name)))
    about = {
        "format": FORMAT,
        "grid": tokens.grid,
        "source": tokens.source,
        "settings": tokens.settings,
    }
    part: Path | None = None
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=".part-", suffix=".safetensors")
        os.close(handle)
        part = Path(name)
        save_file(tensors, part, {"vzvideo": json.dumps(about)})
        part.chmod(0o644)
        part.replace(path)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise TokenFileError(f"{path} cannot be written: {reason}", code="disk") from None
    finally:
        if part is not None:
            part.unlink(missing_ok=True)


def load(path: Path) -> VisualTokens:
    """Reads what `save` wrote, on the CPU; TokenFileError where it is damaged or something else."""
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {})["vzvideo"])
            if about["format"] > FORMAT:
                raise TokenFileError(
                    f"{path}: written by a newer vzvideo (format {about['format']}, this one reads "
                    f"{FORMAT}); upgrade vzvideo or encode the video again"
                )
            arrays = {n: file.get_tensor(n).numpy().astype(d) for n, d in _ARRAYS.items()}
            return VisualTokens(
                features=file.get_tensor("features"),
                **arrays,
                grid=(int(about["grid"][0]), int(about["grid"][1])),
                source=str(about["source"]),
                settings=dict(about["settings"]),
            )
    except FileNotFoundError:
        raise TokenFileError(f"{path}: no such file", code="not_found") from None
    except (SafetensorError, OSError, KeyError, ValueError, TypeError, IndexError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise TokenFileError(
            f"{path}: not a file of visual tokens, or damaged ({reason}); encode the video again"
        ) from None


def is_token_file(path: Path) -> bool:
    """Whether a file begins as safetensors do: a video never does."""
    try:
        with path.open("rb") as file:
            head = file.read(9)
    except OSError:
        return False
    return path.name.endswith(".safetensors") or (
        len(head) == 9 and int.from_bytes(head[:8], "little") < 1 << 27 and head[8:] == b"{"
    )


def content_key(path: Path) -> str:
    """A hash by which a file is known: its size, time of change, and 64 blocks spread over it.

    Reads 4 MB at most, of a film as of a clip.
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
        text = json.dumps([FORMAT, content_key(source), settings], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def get(self, key: str) -> VisualTokens | None:
        """What was kept, or None; a damaged file counts as nothing and is removed."""
        path = self._path(key)
        if not path.exists():
            return None
        try:
            tokens = load(path)
            os.utime(path)
        except (TokenFileError, OSError):
            path.unlink(missing_ok=True)
            return None
        return tokens

    def put(self, key: str, tokens: VisualTokens) -> None:
        """Keeps tokens. A cache that cannot be written costs time and breaks nothing."""
        with contextlib.suppress(OSError, TokenFileError):
            self.folder.mkdir(parents=True, exist_ok=True)
            save(tokens, self._path(key))
            self._shrink()

    def _shrink(self) -> None:
        files = []
        for path in self.folder.glob("*.safetensors"):
            with contextlib.suppress(OSError):
                stat = path.stat()
                files.append((stat.st_mtime, stat.st_size, path))
        total = sum(size for _, size, _ in files)
        for _, size, path in sorted(files):
            if total <= self.limit_bytes:
                break
            path.unlink(missing_ok=True)
            total -= size

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.safetensors"
