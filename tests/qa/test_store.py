"""Visual tokens on disk: nothing lost, nothing half written, nothing damaged taken for whole."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.video import clips
from vzvideo.errors import TokenFileError
from vzvideo.qa import store
from vzvideo.qa.store import TokenCache
from vzvideo.types import VisualTokens, is_token_file

ARRAYS = ("frame", "role", "patch", "pts_s")
MB = 1 << 20


def tokens(seed: int = 0, dtype: torch.dtype = torch.float32, width: int = 8) -> VisualTokens:
    torch.manual_seed(seed)
    return VisualTokens(
        features=torch.randn(5, width).to(dtype),
        frame=np.array([0, 0, 0, 1, 1], np.int32),
        role=np.array([0, 1, 2, 0, 1], np.int8),
        patch=np.array([-1, 3, 0, -1, 2], np.int32),
        pts_s=np.array([0.1, 1 / 3]),
        grid=(2, 2),
        source="a clip with 'quotes' and ü.mp4",
        settings={"model": "mini", "dominant": 2, "start_s": None, "merge": "reference"},
    )


def test_how_long_a_token_lasts_is_kept_and_files_without_it_are_as_before(tmp_path: Path) -> None:
    plain, lasting = tokens(), replace(tokens(), until=np.array([2, 1, 1, 2, 2], np.int32))
    for each, name in ((plain, "plain"), (lasting, "lasting")):
        each.save(tmp_path / name)
        again = VisualTokens.load(tmp_path / name)
        np.testing.assert_array_equal(again.until, each.until, strict=True)
        assert_equal(again, each)
    assert "until" not in load_file(tmp_path / "plain")


def assert_equal(actual: VisualTokens, expected: VisualTokens) -> None:
    assert actual.features.dtype == expected.features.dtype
    assert torch.equal(actual.features, expected.features)
    for name in ARRAYS:
        np.testing.assert_array_equal(getattr(actual, name), getattr(expected, name), strict=True)
    for name in ("grid", "source", "settings"):
        assert getattr(actual, name) == getattr(expected, name)


def run(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """A process of its own, for what a limit on a whole process shows."""
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True
    )


# -- one file


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_file_gives_back_every_bit(tmp_path: Path, dtype: torch.dtype) -> None:
    special = torch.tensor([0.0, -0.0, float("inf"), -float("inf"), 1e-7, 65504.0, 1 / 3, -1.0])
    kept = tokens(dtype=dtype)
    kept.features[0] = special.to(dtype)
    kept.save(tmp_path / "clip.safetensors")
    again = VisualTokens.load(tmp_path / "clip.safetensors")
    assert_equal(again, kept)
    assert torch.equal(torch.signbit(again.features), torch.signbit(kept.features))


def test_tokens_of_any_memory_layout_are_saved(tmp_path: Path) -> None:
    whole = torch.randn(9, 16)
    shared = np.array([0, 0, 0, 0, 0], np.int32)
    for features in (whole[4:], whole[:5, ::2], whole.T[:5]):
        kept = replace(tokens(), features=features, frame=shared, patch=shared)
        kept = replace(kept, pts_s=np.array([9.0, 0.1, 8.0, 0.2])[1::2])
        kept.save(tmp_path / "clip.safetensors")
        assert_equal(VisualTokens.load(tmp_path / "clip.safetensors"), kept)


def test_a_file_has_the_rights_any_new_file_has(tmp_path: Path) -> None:
    tokens().save(tmp_path / "clip.safetensors")
    (tmp_path / "other").write_text("")
    modes = [(tmp_path / name).stat().st_mode for name in ("clip.safetensors", "other")]
    assert modes[0] == modes[1]


def test_a_file_replaces_the_one_before_it(tmp_path: Path) -> None:
    path = tmp_path / "clip.safetensors"
    for seed in (1, 2):
        tokens(seed).save(path)
    assert_equal(VisualTokens.load(path), tokens(2))
    assert list(tmp_path.iterdir()) == [path]


SAVE = """
import resource, sys
from pathlib import Path
import numpy as np, torch
from vzvideo.errors import TokenFileError
from vzvideo.types import VisualTokens, is_token_file

one = np.zeros(1, np.int32)
tokens = VisualTokens(torch.ones(1, 100_000), one, np.zeros(1, np.int8), one, np.zeros(1), (1, 1))
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    tokens.save(sys.argv[1])
except TokenFileError as error:
    print(error.code, error)
"""


def test_a_write_that_fails_halfway_leaves_the_old_file(tmp_path: Path) -> None:
    pytest.importorskip("resource", reason="a limit on file sizes needs Unix")
    path = tmp_path / "clip.safetensors"
    tokens(1).save(path)
    result = run(SAVE, path)
    assert result.stdout == f"disk {path} cannot be written: File too large\n", result.stderr
    assert_equal(VisualTokens.load(path), tokens(1))
    assert list(tmp_path.iterdir()) == [path]


INTERRUPTED = """
import os, signal, sys, threading
from pathlib import Path
import numpy as np, torch
from vzvideo.types import VisualTokens, is_token_file

one = np.zeros(1, np.int32)
tokens = VisualTokens(torch.ones(1, 3 << 20), one, np.zeros(1, np.int8), one, np.zeros(1), (1, 1))
def interrupt():
    folder = Path(sys.argv[1]).parent
    while len(list(folder.iterdir())) < 2:
        pass
    os.kill(os.getpid(), signal.SIGINT)
threading.Thread(target=interrupt, daemon=True).start()
try:
    while True:
        tokens.save(sys.argv[1])
except KeyboardInterrupt:
    print("interrupted")
"""


def test_an_interrupted_write_leaves_a_whole_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "clip.safetensors"
    tokens(1).save(path)
    result = run(INTERRUPTED, path)
    assert result.stdout == "interrupted\n", result.stderr
    VisualTokens.load(path)
    assert list(tmp_path.iterdir()) == [path]


def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.safetensors").mkdir()
    for path in (
        tmp_path / "file" / "clip.safetensors",
        tmp_path / "missing" / "clip.safetensors",
        tmp_path / "folder.safetensors",
        tmp_path / ("long" * 100),
    ):
        with pytest.raises(TokenFileError, match="cannot be written") as caught:
            tokens().save(path)
        assert str(path) in str(caught.value)
        assert len(str(caught.value).splitlines()) == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder.safetensors"]


# -- damage


def assert_refused(path: Path) -> str:
    with pytest.raises(TokenFileError) as caught:
        VisualTokens.load(path)
    line = str(caught.value)
    assert line.startswith(str(path))
    assert len(line.splitlines()) == 1
    return line


def test_every_flipped_bit_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "clip.safetensors"
    kept = tokens(width=2)
    kept.save(path)
    whole = path.read_bytes()
    header = 8 + struct.unpack("<Q", whole[:8])[0]
    harmless = 0
    for place in range(len(whole)):
        for bit in (1 << place % 8, 0x80):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ bit]) + whole[place + 1 :])
            try:
                again = VisualTokens.load(path)
            except TokenFileError:
                continue
            # Blanks between the header and the data are the only bytes that say nothing.
            assert whole[place : place + 1] == b" "
            assert whole[place:header].strip() == b""
            assert_equal(again, kept)
            harmless += 1
    assert harmless <= 8


def test_numbers_read_as_another_kind_are_noticed(tmp_path: Path) -> None:
    path = tmp_path / "clip.safetensors"
    tokens().save(path)
    whole = path.read_bytes()
    for old, new in ((b'"F32"', b'"I32"'), (b'"frame"', b'"patch"'), (b"[5,8]", b"[5,4]")):
        assert whole.count(old) == 1
        path.write_bytes(whole.replace(old, new))
        assert_refused(path)


def test_every_truncation_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "clip.safetensors"
    tokens(width=2).save(path)
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        assert_refused(path)
    path.write_bytes(whole + b"\0")
    assert_refused(path)


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "clip.safetensors"
    path.write_text("once upon a time, there was a text file")
    assert "encode the video again" in assert_refused(path)
    save_file({"weight": torch.zeros(3)}, path)
    assert "another program's safetensors" in assert_refused(path)
    save_file({"weight": torch.zeros(3)}, path, {"vzvideo": json.dumps({"format": 1})})
    assert_refused(path)
    save_file({"weight": torch.zeros(3)}, path, {"vzvideo": "[]"})
    assert_refused(path)
    save_file({"weight": torch.zeros(3)}, path, {"vzvideo": "{"})
    assert_refused(path)
    for header in (b"[]", b"0", b"{}", b"[" * 100_000, b"\xff"):
        path.write_bytes(struct.pack("<Q", len(header)) + header)
        assert_refused(path)


def test_a_file_of_a_newer_version_says_so(tmp_path: Path) -> None:
    path = tmp_path / "clip.safetensors"
    tokens().save(path)
    about = json.dumps({"format": store.FORMAT + 1, "anything": "else"})
    save_file(load_file(path), path, {"vzvideo": about})
    assert "newer vzvideo" in assert_refused(path)


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(TokenFileError, match="no such file") as caught:
        VisualTokens.load(tmp_path / "missing.safetensors")
    assert caught.value.code == "not_found"
    assert_refused(tmp_path)


# -- telling a token file from a video


@pytest.mark.parametrize("kind", {kind.suffix: kind for kind in clips.KINDS}.values(), ids=str)
def test_a_video_is_no_token_file(tmp_path: Path, kind: clips.Kind) -> None:
    path = tmp_path / f"clip{kind.suffix}"
    kind.make(kind, path)
    assert path.stat().st_size > 0
    assert not is_token_file(path)


def test_a_token_file_is_known_by_its_content_or_its_name(tmp_path: Path) -> None:
    tokens().save(tmp_path / "clip.safetensors")
    tokens().save(tmp_path / "renamed.mp4")
    (tmp_path / "damaged.safetensors").write_bytes(b"")
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "begun.mp4").write_bytes(bytes(100))  # room made for a download
    (tmp_path / "text.mp4").write_text("{}" * 20)
    known = {p.name for p in tmp_path.iterdir() if is_token_file(p)}
    assert known == {"clip.safetensors", "renamed.mp4", "damaged.safetensors"}
    assert not is_token_file(tmp_path / "missing.safetensors")
    assert not is_token_file(tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes need Unix")
def test_nothing_is_read_of_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.safetensors")
    assert not is_token_file(tmp_path / "pipe.safetensors")


# -- knowing a file by its content


def test_an_edit_anywhere_in_a_file_of_up_to_4_mb_changes_its_key(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    content = bytearray(np.random.default_rng(0).bytes(4 * MB))
    path.write_bytes(content)
    os.utime(path, ns=(0, 0))
    keys = {store.content_hash(path)}
    places = [0, 1, 4 * MB - 1, *np.random.default_rng(1).integers(0, 4 * MB, 20).tolist()]
    with path.open("r+b") as file:
        for place in places:
            file.seek(place)
            file.write(bytes([content[place] ^ 1]))
            file.flush()
            os.utime(path, ns=(0, 0))  # the time of change is put back: the content must tell
            keys.add(store.content_hash(path))
    assert len(keys) == 1 + len(places)


def test_size_and_time_of_change_are_part_of_the_key(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(b"a" * 100)
    os.utime(path, ns=(0, 0))
    first = store.content_hash(path)
    os.utime(path, ns=(0, 1))
    assert store.content_hash(path) != first
    path.write_bytes(b"a" * 101)
    os.utime(path, ns=(0, 0))
    assert store.content_hash(path) != first


def test_of_a_large_file_blocks_are_read_and_what_lies_between_is_not(tmp_path: Path) -> None:
    path = tmp_path / "film.mkv"
    size = 64 * MB  # a block of 64 KB at the beginning of each MB
    with path.open("wb") as file:
        file.truncate(size)

    def key_with(place: int) -> str:
        with path.open("r+b") as file:
            file.seek(place)
            file.write(b"x")
        os.utime(path, ns=(0, 0))
        key = store.content_hash(path)
        with path.open("r+b") as file:
            file.seek(place)
            file.write(b"\0")
        return key

    os.utime(path, ns=(0, 0))
    first = store.content_hash(path)
    for block in (0, 1, 31, 63):
        assert key_with(block * MB) != first
        assert key_with(block * MB + (1 << 16) - 1) != first
    # The limit its docstring names: this edit also put size and time of change back.
    assert key_with(MB + (1 << 16)) == first


# -- the cache


@pytest.fixture
def cache(tmp_path: Path) -> TokenCache:
    return TokenCache(tmp_path / "tokens", 100 * MB)


def names(cache: TokenCache) -> set[str]:
    return {path.name.removesuffix(".safetensors") for path in cache.folder.iterdir()}


def test_what_is_put_can_be_got(cache: TokenCache) -> None:
    assert cache.get("a") is None
    cache.put("a", tokens(1))
    cache.put("b", tokens(2))
    for key, seed in (("a", 1), ("b", 2)):
        kept = cache.get(key)
        assert kept is not None
        assert_equal(kept, tokens(seed))
    assert cache.get("c") is None


def test_a_damaged_entry_is_a_miss_and_goes(cache: TokenCache) -> None:
    cache.put("a", tokens())
    (path,) = cache.folder.iterdir()
    path.write_bytes(path.read_bytes()[:-1])
    assert cache.get("a") is None
    assert names(cache) == set()
    cache.put("a", tokens(3))
    kept = cache.get("a")
    assert kept is not None
    assert_equal(kept, tokens(3))


def test_the_longest_unused_go_first(cache: TokenCache) -> None:
    for number, key in enumerate("abcd"):
        cache.put(key, tokens())
        os.utime(cache.folder / f"{key}.safetensors", (number, number))
    assert cache.get("a") is not None  # used last
    each = next(cache.folder.iterdir()).stat().st_size
    cache.limit_bytes = 3 * each
    cache.put("e", tokens())
    assert names(cache) == {"a", "d", "e"}
    cache.limit_bytes = 0
    cache.put("f", tokens())
    assert names(cache) == set()


def test_what_killed_writers_left_goes_in_time(cache: TokenCache) -> None:
    for name, age_s in (("old", 2 * 3600.0), ("new", 10.0)):
        (cache.folder / f".part-{name}").mkdir(parents=True)
        (cache.folder / f".part-{name}" / "half").touch()
        then_s = time.time() - age_s
        os.utime(cache.folder / f".part-{name}", (then_s, then_s))
    cache.put("key", tokens())
    assert [path.name for path in cache.folder.glob(".part-*")] == [".part-new"]


def test_a_cache_that_cannot_be_written_breaks_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    cache = TokenCache(tmp_path / "file" / "tokens", MB)
    cache.put("a", tokens())
    assert cache.get("a") is None


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """A folder that this process may read and not write, whoever runs the tests."""
    folder.chmod(0o555)
    root = hasattr(os, "geteuid") and os.geteuid() == 0
    if root:
        os.seteuid(65534)  # what root may do, no right on a folder forbids
    try:
        yield
    finally:
        if root:
            os.seteuid(0)
        folder.chmod(0o755)


def test_a_cache_that_may_only_be_read_still_serves() -> None:
    with tempfile.TemporaryDirectory() as name:  # pytest's own folders are closed to others
        Path(name).chmod(0o755)
        cache = TokenCache(Path(name) / "tokens", MB)
        cache.put("a", tokens())
        cache.put("damaged", tokens())
        (cache.folder / "damaged.safetensors").write_text("damaged")
        with read_only(cache.folder):
            assert cache.get("a") is not None
            assert cache.get("damaged") is None
            cache.put("b", tokens())
        assert names(cache) == {"a", "damaged"}


SHARE = """
import sys
from pathlib import Path
import numpy as np, torch
from vzvideo.qa.store import TokenCache
from vzvideo.types import VisualTokens, is_token_file

one = np.zeros(1, np.int32)
cache = TokenCache(Path(sys.argv[1]), 1 << 20)
mine = float(sys.argv[2])
for turn in range(100):
    features = torch.full((1, 1000), mine)
    cache.put("shared", VisualTokens(
        features, one, np.zeros(1, np.int8), one, np.zeros(1), (1, 1), settings={"by": mine}))
    kept = cache.get("shared")
    assert kept is not None, f"turn {turn}: gone"
    assert (kept.features == kept.settings["by"]).all(), f"turn {turn}: mixed"
"""


def test_two_processes_may_write_the_same_key(tmp_path: Path) -> None:
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", SHARE, str(tmp_path), name], stderr=subprocess.PIPE, text=True
        )
        for name in "12"
    ]
    errors = [worker.communicate(timeout=100)[1] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], errors
    assert [path.name for path in tmp_path.iterdir()] == ["shared.safetensors"]


SETTINGS: dict[str, Any] = {"model": "mini", "frames": 8, "start_s": None, "dominant": 14}


def test_the_key_is_that_of_file_and_settings(tmp_path: Path) -> None:
    path, other = tmp_path / "clip.mp4", tmp_path / "other.mp4"
    path.write_bytes(b"clip")
    other.write_bytes(b"CLIP")
    for each in (path, other):
        os.utime(each, ns=(0, 0))
    key = TokenCache.key(path, SETTINGS)
    assert key == TokenCache.key(path, dict(reversed(SETTINGS.items())))
    changed = [SETTINGS | change for change in (
        {"model": "another"}, {"frames": 9}, {"start_s": 0.0}, {"dominant": None}, {"new": 1},
    )]  # fmt: skip
    keys = {key, TokenCache.key(other, SETTINGS), *(TokenCache.key(path, s) for s in changed)}
    assert len(keys) == 2 + len(changed)
