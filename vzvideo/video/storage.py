"""Files by path or URI: the local disk, and object stores through pyarrow's filesystems.

Knows nothing of what the files hold. `http(s)`, `rtsp` and the like are no files; FFmpeg opens
those itself.
"""

from __future__ import annotations

import glob
import os
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote

from vzvideo.errors import SettingsError

STORES = ("s3", "gs", "gcs", "abfs", "abfss", "hdfs", "file")  # schemes that pyarrow opens


def _umask() -> int:
    """What new files may not be."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


_MODE = 0o666 & ~_umask()


def is_filesystem_uri(uri: str) -> bool:
    """Whether `uri` names a file of an object store (or, as `file://`, of the disk)."""
    return uri.partition("://")[0] in STORES and "://" in uri


def filesystem(uri: str) -> tuple[Any, str]:
    """The pyarrow filesystem of a path or URI, and the path within it.

    Raises SettingsError where the store is not known, or pyarrow not installed.
    """
    try:
        from pyarrow import fs
    except ImportError:
        raise SettingsError(f"{uri}: needs pyarrow: pip install 'vzvideo[corpus]'") from None
    if "://" not in uri:
        return fs.LocalFileSystem(), os.path.abspath(uri)
    try:
        # As people write them: blanks, brackets, letters of any language, a # that is a name's.
        # A % that begins no code is a name's own.
        uri = re.sub(r"%(?![0-9A-Fa-f]{2})", "%25", uri)
        system, path = fs.FileSystem.from_uri(quote(uri, safe="%/:@?&=+,;~$!*'()"))
    except (OSError, ValueError) as error:
        raise SettingsError(f"{uri}: {' '.join(str(error).split())}") from None
    return system, path


def open_input(uri: str) -> BinaryIO:
    """A file of a store, for reading at any place. Raises OSError."""
    system, path = filesystem(uri)
    file: BinaryIO = system.open_input_file(path)
    return file


def local_copy(uri: str, folder: Path) -> Path:
    """A local file with the content: the file itself, or a copy in `folder` of a stored one."""
    if not is_filesystem_uri(uri):
        return Path(uri)
    copy = folder / os.path.basename(uri)
    try:
        with open_input(uri) as file:
            copy.write_bytes(file.read())
    except OSError as error:
        raise SettingsError(f"{uri}: {' '.join(str(error).split())}") from None
    return copy


def file_version(uri: str) -> str:
    """What changes when a file does: its size and time of change; "" where it cannot be told."""
    if "://" in uri and not is_filesystem_uri(uri):
        return ""
    try:
        if not is_filesystem_uri(uri):
            stat = os.stat(uri)
            return f"{stat.st_size}:{stat.st_mtime_ns}"
        system, path = filesystem(uri)
        info = system.get_file_info(path)
        return f"{info.size}:{info.mtime_ns}" if info.is_file else ""
    except (OSError, SettingsError):
        return ""


def join(folder: str, name: str) -> str:
    """A name within a folder, by path or URI."""
    return f"{folder.rstrip('/')}/{quote(name)}" if "://" in folder else str(Path(folder) / name)


def list_files(
    pattern: str, endings: tuple[str, ...], say: Callable[[str], None] = lambda _: None
) -> list[str]:
    """The files that a path, a folder, a prefix of a store or a pattern (`**` too) names, sorted.

    A folder or a prefix stands for everything below it, links followed. Of what folders and
    patterns name, hidden files are left out, and files with another ending than `endings`, unless
    the pattern says that ending itself (`*.dat`); `say` is told how many.
    """
    if not is_filesystem_uri(pattern):
        if Path(pattern).is_file():  # its name may look like a pattern
            return [pattern]
        if Path(pattern).is_dir():
            found: Iterable[str] = _below(pattern)
        else:
            found = filter(os.path.isfile, glob.iglob(pattern, recursive=True, include_hidden=True))
        named = Path(pattern).suffix if not Path(pattern).is_dir() else ""
        root = Path(pattern) if Path(pattern).is_dir() else Path(_fixed(pattern))
        names = {os.path.relpath(path, root): path for path in found}
        return sorted(names[name] for name in _videos(names, endings, named, pattern, say))
    magic = min((pattern.index(c) for c in "*?[" if c in pattern), default=None)
    base = pattern if magic is None else pattern[: pattern.rindex("/", 0, magic)]
    system, path = filesystem(base)
    from pyarrow import fs

    try:
        if magic is None and system.get_file_info(path).is_file:
            return [pattern]
        infos = system.get_file_info(fs.FileSelector(path, recursive=True, allow_not_found=True))
    except OSError as error:
        raise SettingsError(f"{pattern}: {' '.join(str(error).split())}") from None
    # A store's own paths begin with the bucket, those of the disk with a slash.
    below = [info.path[len(path.rstrip("/")) + 1 :] for info in infos if info.is_file]
    if magic is not None:
        wanted = _expression(pattern[len(base) + 1 :])
        below = [name for name in below if wanted.fullmatch(name)]
    named = "" if magic is None else Path(pattern).suffix
    return sorted(join(base, name) for name in _videos(below, endings, named, pattern, say))


def _below(folder: str) -> Iterator[str]:
    """Every file below a folder, links followed, each folder once."""
    seen = set()
    for path, folders, names in os.walk(folder, followlinks=True):
        seen.add(os.path.realpath(path))
        folders[:] = [n for n in folders if os.path.realpath(os.path.join(path, n)) not in seen]
        yield from (os.path.join(path, name) for name in names)


def _fixed(pattern: str) -> str:
    """The folder that a pattern begins with, up to its first wildcard."""
    before = re.split(r"[*?[]", pattern, maxsplit=1)[0]
    return before.rpartition("/")[0] or ("/" if pattern.startswith("/") else ".")


def _videos(
    names: Iterable[str],
    endings: tuple[str, ...],
    named: str,
    pattern: str,
    say: Callable[[str], None],
) -> list[str]:
    """Of `names` below a folder, those to take; named: an ending that the pattern says itself."""
    taken, hidden, others = [], 0, Counter[str]()
    for name in names:
        ending = Path(name).suffix.lower()
        if any(part.startswith(".") and part not in (".", "..") for part in Path(name).parts):
            hidden += 1
        elif ending in endings or ending == named.lower() != "":
            taken.append(name)
        else:
            others[ending or "none"] += 1
    left_out = [f"{hidden} hidden"] if hidden else []
    if others:
        kinds = ", ".join(sorted(others, key=lambda kind: (-others[kind], kind))[:5])
        left_out.append(f"{others.total()} with the ending of no video ({kinds})")
    if left_out:
        say(f"{pattern}: left out {' and '.join(left_out)}")
    return taken


def _expression(pattern: str) -> re.Pattern[str]:
    """What `glob` means by a pattern: * stays within a folder, **/ is any number of them."""
    parts = []
    for part in re.split(r"(\*\*/|\*|\?|\[[^]]*\])", pattern):
        match part:
            case "**/":
                parts.append(r"(?:[^/]+/)*")
            case "*":
                parts.append(r"[^/]*")
            case "?":
                parts.append("[^/]")
            case _ if part.startswith("["):
                parts.append(part.replace("[!", "[^"))
            case _:
                parts.append(re.escape(part))
    return re.compile("".join(parts))


def write_atomic(uri: str, content: bytes) -> None:
    """Writes a file, whole or not at all, making folders on the way. Raises OSError."""
    if is_filesystem_uri(uri):
        system, path = filesystem(uri)
        with suppress(OSError):  # stores without folders
            system.create_dir(os.path.dirname(path), recursive=True)
        with system.open_output_stream(path) as file:  # appears when it is closed
            file.write(content)
        return
    target = Path(uri)
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, part = tempfile.mkstemp(dir=target.parent, prefix=".part-")
    try:
        with os.fdopen(handle, "wb") as file:
            os.chmod(part, _MODE)  # mkstemp's is its owner's alone
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, target)
    except BaseException:
        with suppress(OSError):
            os.unlink(part)
        raise
