"""Files by path and by URI: both see the same, and what is written is there whole or not at all."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from vzvideo.errors import SettingsError
from vzvideo.video import storage

ENDINGS = (".mp4", ".mkv")
FILES = ("a.mp4", "b.MKV", "notes.txt", "sub/c.mp4", "sub/deep/d.mp4", "sub/e.bin", "other/f.mkv")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in FILES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    return tmp_path


def places(folder: Path) -> tuple[str, str]:
    """The folder by path and by URI."""
    return str(folder), folder.as_uri()


def listed(where: str, pattern: str) -> list[str]:
    names = storage.list_files(f"{where}/{pattern}" if pattern else where, ENDINGS)
    assert all(name.startswith(where) for name in names)
    return [name.removeprefix(f"{where}/") for name in names]


@contextmanager
def full_disk(free: int) -> Iterator[None]:
    """No file can grow beyond `free` bytes meanwhile."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (free, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


# -- listed


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("", ["a.mp4", "b.MKV", "other/f.mkv", "sub/c.mp4", "sub/deep/d.mp4"]),
        ("sub", ["sub/c.mp4", "sub/deep/d.mp4"]),
        ("sub/c.mp4", ["sub/c.mp4"]),
        ("notes.txt", ["notes.txt"]),
        ("**/*.mp4", ["a.mp4", "sub/c.mp4", "sub/deep/d.mp4"]),
        ("sub/**/*.mp4", ["sub/c.mp4", "sub/deep/d.mp4"]),
        ("sub/*.bin", ["sub/e.bin"]),
        ("sub/[ce].*", ["sub/c.mp4"]),
        ("?.mp4", ["a.mp4"]),
        ("*/f.mkv", ["other/f.mkv"]),
        ("none", []),
        ("none/*.mp4", []),
        ("*.avi", []),
    ],
)
def test_path_and_uri_name_the_same_files(folder: Path, pattern: str, names: list[str]) -> None:
    for where in places(folder):
        assert listed(where, pattern) == names


def test_a_slash_at_the_end_changes_nothing(folder: Path) -> None:
    path, uri = places(folder)
    assert storage.list_files(f"{path}/sub/", ENDINGS) == storage.list_files(f"{path}/sub", ENDINGS)
    assert storage.list_files(f"{uri}/sub/", ENDINGS) == storage.list_files(f"{uri}/sub", ENDINGS)


@pytest.mark.parametrize(
    ("pattern", "names"), [("*.mp4", ["a.mp4"]), ("sub/**/d.mp4", ["sub/deep/d.mp4"])]
)
def test_a_star_names_files_of_one_folder(folder: Path, pattern: str, names: list[str]) -> None:
    (folder / "sub/xd.mp4").touch()
    for where in places(folder):
        assert listed(where, pattern) == names


def test_a_file_whose_name_looks_like_a_pattern_is_found(folder: Path) -> None:
    path = folder / "Title [dQw4w9WgXcQ].mp4"
    path.touch()
    assert storage.list_files(str(path), ENDINGS) == [str(path)]


@pytest.mark.parametrize("name", ["b c.mp4", "ü.mp4", "h#1.mp4", "p%20q.mp4", "q?.mp4"])
def test_what_is_listed_can_be_opened_whatever_its_name(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"content")
    (uri,) = storage.list_files(tmp_path.as_uri(), ENDINGS)
    assert storage.file_version(uri) == storage.file_version(str(tmp_path / name))
    with storage.open_input(uri) as file:
        assert file.read() == b"content"


@pytest.mark.parametrize("pattern", ["", "**/*", "**/*.*"])
def test_what_is_left_out_is_told(folder: Path, pattern: str) -> None:
    (folder / "._a.mp4").touch()  # what macOS writes beside a file on another disk
    (folder / ".trash").mkdir()
    (folder / ".trash" / "b.mp4").touch()
    for where in places(folder):
        told: list[str] = []
        named = f"{where}/{pattern}" if pattern else where
        names = storage.list_files(named, ENDINGS, told.append)
        assert not [name for name in names if "/." in name.removeprefix(where)]
        assert told == [
            f"{named}: left out 2 hidden and 2 with the ending of no video (.bin, .txt)"
        ]


def test_folders_behind_links_are_entered_once(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "linked.mp4").touch()
    (folder / "link").symlink_to(elsewhere)
    (folder / "circle").symlink_to(folder)
    assert [n for n in listed(str(folder), "") if "link" in n] == ["link/linked.mp4"]


@pytest.mark.parametrize("name", ["50%d.mp4", "100%.mp4", "a%zz.mp4"])
def test_a_percent_that_is_no_code_is_a_names_own(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"content")
    with storage.open_input(f"file://{tmp_path}/{name}") as file:
        assert file.read() == b"content"


# -- version


def test_path_and_uri_have_the_same_version(folder: Path) -> None:
    one, other = places(folder)
    assert storage.file_version(f"{one}/a.mp4") == storage.file_version(f"{other}/a.mp4") != ""


def test_a_version_changes_with_the_file(folder: Path) -> None:
    path = folder / "a.mp4"
    for where in places(folder):
        os.utime(path, ns=(0, 0))
        versions = {storage.file_version(f"{where}/a.mp4")}
        os.utime(path, ns=(0, 1))
        versions.add(storage.file_version(f"{where}/a.mp4"))
        path.write_bytes(path.read_bytes() + b"more")
        os.utime(path, ns=(0, 1))
        versions.add(storage.file_version(f"{where}/a.mp4"))
        assert len(versions) == 3
        assert "" not in versions


def test_what_is_not_there_and_what_cannot_be_asked_has_no_version(folder: Path) -> None:
    for where in places(folder):
        assert storage.file_version(f"{where}/none.mp4") == ""
    assert storage.file_version("https://host/a.mp4") == ""
    assert storage.file_version("rtsp://host/a") == ""


# -- reading


def test_an_opened_file_can_be_read_from_any_place(folder: Path) -> None:
    for where in places(folder):
        with storage.open_input(f"{where}/sub/c.mp4") as file:
            assert file.read(2) == b"su"
            file.seek(-3, os.SEEK_END)
            assert file.read() == b"mp4"
            file.seek(0)
            assert file.read() == b"sub/c.mp4"
        with pytest.raises(FileNotFoundError):
            storage.open_input(f"{where}/none")


def test_a_stored_file_is_fetched_and_a_local_one_stays(folder: Path, tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    path, uri = places(folder)
    assert storage.local_copy(f"{path}/sub/c.mp4", scratch) == folder / "sub/c.mp4"
    assert list(scratch.iterdir()) == []
    copy = storage.local_copy(f"{uri}/sub/c.mp4", scratch)
    assert copy == scratch / "c.mp4"
    assert copy.read_text() == "sub/c.mp4"
    with pytest.raises(SettingsError, match="none"):
        storage.local_copy(f"{uri}/none.csv", scratch)


# -- writing


def test_what_is_written_is_there_alone_and_replaces_what_was(tmp_path: Path) -> None:
    for where in places(tmp_path / "new"):
        name = storage.join(f"{where}/deep", "x.bin")
        storage.write_atomic(name, b"long content")
        storage.write_atomic(name, b"short")
        assert (tmp_path / "new/deep/x.bin").read_bytes() == b"short"
        assert os.listdir(tmp_path / "new/deep") == ["x.bin"]


def test_a_write_that_fails_leaves_what_was_and_nothing_besides(tmp_path: Path) -> None:
    path = tmp_path / "x.bin"
    storage.write_atomic(str(path), b"before")
    with full_disk(10_000), pytest.raises(OSError, match="large"):
        storage.write_atomic(str(path), b"x" * 100_000)
    assert path.read_bytes() == b"before"
    assert os.listdir(tmp_path) == ["x.bin"]
    with pytest.raises(OSError, match=r"x\.bin"):
        storage.write_atomic(str(path / "y.bin"), b"below a file")


def test_what_is_written_may_be_read_by_whom_the_umask_lets(tmp_path: Path) -> None:
    (tmp_path / "usual").touch()
    storage.write_atomic(str(tmp_path / "written"), b"")
    assert (tmp_path / "written").stat().st_mode == (tmp_path / "usual").stat().st_mode


# -- names


def test_which_names_are_of_a_store() -> None:
    for uri in ("s3://b/x", "gs://b/x", "file:///x", "hdfs://h/x", "abfss://c@a/x"):
        assert storage.is_filesystem_uri(uri)
    for name in ("http://h/x", "https://h/x", "rtsp://h/x", "/x", "x", "file", "s3", "s3/x", ""):
        assert not storage.is_filesystem_uri(name)


def test_names_are_joined_by_path_and_by_uri() -> None:
    assert storage.join("/x/", "y.mp4") == storage.join("/x", "y.mp4") == "/x/y.mp4"
    assert storage.join("s3://b/x/", "y z") == storage.join("s3://b/x", "y z") == "s3://b/x/y%20z"
    assert storage.join(".", "y.mp4") == "y.mp4"


def test_an_unknown_store_is_refused() -> None:
    with pytest.raises(SettingsError, match="ftp://host/x"):
        storage.filesystem("ftp://host/x")


def without_pyarrow(call: str) -> str:
    code = f"""if 1:
        import sys; sys.modules["pyarrow"] = None
        from vzvideo.video import storage
        from vzvideo.errors import SettingsError
        try:
            print({call})
        except SettingsError as error:
            print(error)
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_local_files_need_no_pyarrow_and_a_store_says_that_it_does(folder: Path) -> None:
    path = str(folder / "a.mp4")
    call = f"storage.list_files({path!r}, ()), storage.file_version({path!r})"
    assert without_pyarrow(call) == f"{[path]} {storage.file_version(path)}"
    assert "pip install 'vzvideo[corpus]'" in without_pyarrow("storage.open_input('s3://bucket/x')")


def test_a_store_cannot_be_listed_without_pyarrow_and_says_so() -> None:
    assert "pip install 'vzvideo[corpus]'" in without_pyarrow(
        "storage.list_files('s3://bucket/', ())"
    )


# -- a store that speaks S3


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """A bucket with FILES in it, on a server of this process."""
    from moto.server import ThreadedMotoServer
    from pyarrow import fs

    here = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    here.start()
    address = "{}:{}".format(*here.get_host_and_port())
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "AWS_ENDPOINT_URL": f"http://{address}",
            "AWS_ACCESS_KEY_ID": "any",
            "AWS_SECRET_ACCESS_KEY": "any",
            "AWS_DEFAULT_REGION": "us-east-1",
        }.items():
            patch.setenv(name, value)
        made = fs.S3FileSystem(endpoint_override=address, scheme="http", allow_bucket_creation=True)
        made.create_dir("clips")
        for name in FILES:
            storage.write_atomic(f"s3://clips/{name}", name.encode())
        yield "s3://clips"
    here.stop()


@pytest.mark.parametrize("pattern", ["", "sub", "sub/c.mp4", "**/*.mp4", "sub/[ce].*", "none/*"])
def test_a_bucket_is_listed_as_a_folder_is(bucket: str, folder: Path, pattern: str) -> None:
    assert listed(bucket, pattern) == listed(str(folder), pattern)


def test_an_object_is_read_from_any_place_and_has_a_version(bucket: str) -> None:
    with storage.open_input(f"{bucket}/sub/c.mp4") as file:
        file.seek(-3, os.SEEK_END)
        assert file.read() == b"mp4"
        file.seek(0)
        assert file.read() == b"sub/c.mp4"
    assert storage.file_version(f"{bucket}/sub/c.mp4").startswith("9:")
    assert storage.file_version(f"{bucket}/none.mp4") == ""
    with pytest.raises(FileNotFoundError):
        storage.open_input(f"{bucket}/none.mp4")
    with pytest.raises(SettingsError, match="none"):
        storage.local_copy(f"{bucket}/none.csv", Path())


def test_an_object_is_replaced(bucket: str) -> None:
    name = f"{bucket}/written/x.bin"
    storage.write_atomic(name, b"long content")
    storage.write_atomic(name, b"short")
    with storage.open_input(name) as file:
        assert file.read() == b"short"


@pytest.mark.parametrize("name", ["b c.mp4", "ü.mp4", "h#1.mp4", "p+q.mp4", "[x].mp4"])
def test_an_object_may_be_named_as_people_name_things(bucket: str, name: str) -> None:
    storage.write_atomic(f"{bucket}/names/{name}", name.encode())
    found = [uri for uri in storage.list_files(f"{bucket}/names/", ENDINGS) if _says(uri, name)]
    assert found == [storage.join(f"{bucket}/names", name)]
    assert _says(f"{bucket}/names/{name}", name)


def _says(uri: str, content: str) -> bool:
    with storage.open_input(uri) as file:
        return file.read() == content.encode()


def test_no_such_bucket(bucket: str) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        storage.open_input("s3://nowhere/x.mp4")
