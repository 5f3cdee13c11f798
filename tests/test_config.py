"""Settings: where they come from, and that no wrong one is passed over."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from vzvideo import config
from vzvideo.cli import options as cli_options
from vzvideo.config import Settings
from vzvideo.errors import SettingsError

CONFIGS = Path(__file__).resolve().parents[1] / "configs"


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def refused(path: Path | None = None, **overrides: Any) -> SettingsError:
    with pytest.raises(SettingsError) as caught:
        config.load(path, **overrides)
    assert len(str(caught.value).splitlines()) == 1
    if path is not None:
        assert str(caught.value).startswith(str(path))
    return caught.value


def test_default_yaml_lists_every_setting_with_its_default() -> None:
    content = yaml.safe_load((CONFIGS / "default.yaml").read_text())
    assert content == dataclasses.asdict(Settings())
    assert list(content) == [field.name for field in dataclasses.fields(Settings)]
    assert {name: type(value) for name, value in content.items()} == {
        name: type(value) for name, value in dataclasses.asdict(Settings()).items()
    }
    assert config.load(CONFIGS / "default.yaml") == Settings()


def test_the_docstring_tells_of_every_setting() -> None:
    heads = re.findall(r"(?:^ *|; )([a-z_, ]+):", Settings.__doc__ or "", re.MULTILINE)
    told = {name for head in heads for name in head.split(", ")}
    assert told == {field.name for field in dataclasses.fields(Settings)}


JOBS = ("cluster.yaml", "corpus.yaml")  # these are for Ray and for `pipelines.ask_corpus`
SETTINGS = [path for path in sorted(CONFIGS.glob("*.yaml")) if path.name not in JOBS]


@pytest.mark.parametrize("path", SETTINGS, ids=lambda path: path.name)
def test_every_shipped_file_loads(path: Path) -> None:
    content = yaml.safe_load(path.read_text())
    settings = dataclasses.asdict(config.load(path))
    assert {name: settings[name] for name in content} == content


def test_defaults_then_the_file_then_what_the_caller_says(tmp_path: Path) -> None:
    path = written(tmp_path, "frames: 16\ntokens_per_frame: 33\nend_s: 90\n")
    settings = config.load(path, frames=4, model=None, sampling="scenes")
    assert settings == Settings(frames=4, tokens_per_frame=33, sampling="scenes", end_s=90.0)
    assert config.load(None, frames=None) == Settings()


@pytest.mark.parametrize("word", ["on", "off", "auto", '"on"'])
def test_on_and_off_are_words_though_yaml_reads_them_otherwise(tmp_path: Path, word: str) -> None:
    (tmp_path / "settings.yaml").write_text(f"temporal: {word}\n")
    assert config.load(tmp_path / "settings.yaml").temporal == word.strip('"')


def test_a_file_of_comments_changes_nothing(tmp_path: Path) -> None:
    for text in ("", "# nothing yet\n", "---\n"):
        assert config.load(written(tmp_path, text)) == Settings()


def test_whole_numbers_stand_for_numbers_and_times_may_have_colons(tmp_path: Path) -> None:
    settings = config.load(written(tmp_path, "fps: 2\nstart_s: 1:23.5\nend_s: 1:30:00\n"))
    assert (settings.fps, settings.start_s, settings.end_s) == (2.0, 83.5, 5400.0)
    assert all(type(s) is float for s in (settings.fps, settings.start_s, settings.end_s))


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("frame", "frames"),
        ("token_per_frame", "tokens_per_frame"),
        ("start", "start_s"),
        ("max_tokens", "max_new_tokens"),
        ("cache_gb", "cache_gib"),
        ("Frames", "frames"),
    ],
)
def test_an_unknown_name_is_told_the_nearest(tmp_path: Path, name: str, meant: str) -> None:
    for error in (refused(written(tmp_path, f"{name}: 1\n")), refused(**{name: 1})):
        assert f"unknown setting {name!r}: did you mean {meant!r}?" in str(error)
        assert error.code == "unknown_setting"


def test_a_name_like_no_other_is_told_all(tmp_path: Path) -> None:
    for name in ("xyzzy", "17"):
        error = refused(written(tmp_path, f"{name}: 1\n"))
        for field in dataclasses.fields(Settings):
            assert field.name in str(error)


@pytest.mark.parametrize(
    ("text", "needed"),
    [
        ("frames: many", "a whole number or null is needed"),
        ("frames: 8.5", "a whole number or null is needed"),
        ("frames: true", "a whole number or null is needed"),
        ("frames: [8]", "a whole number or null is needed"),
        ("tokens_per_frame: null", "a whole number is needed"),
        ("compress: 1", "true or false is needed"),
        ("compress: 'no'", "true or false is needed"),
        ("fps: fast", "a number is needed"),
        ("fps: false", "a number is needed"),
        ("model: 7", "text is needed"),
        ("model: null", "text is needed"),
        ("sampling: random", "'uniform' or 'fps' or 'keyframes' or 'scenes' is needed"),
        ("sampling: {}", "'uniform' or 'fps' or 'keyframes' or 'scenes' is needed"),
        ("quantize: 4", "'4bit' or '8bit' or null is needed"),
        ("quantize: 16bit", "'4bit' or '8bit' or null is needed"),
    ],
)
def test_a_wrong_kind_of_value_is_told_the_right_one(
    tmp_path: Path, text: str, needed: str
) -> None:
    message = str(refused(written(tmp_path, text)))
    assert f"{text.partition(':')[0]}: " in message
    assert message.endswith(needed)


@pytest.mark.parametrize(
    ("text", "least"),
    [
        ("tokens_per_frame: 0", "1"),
        ("max_new_tokens: -1", "1"),
        ("batch: 0", "1"),
        ("temperature: -0.1", "0"),
        ("temperature: .nan", "0"),
        ("num_beams: 0", "1"),
        ("deadline_s: 0", "0.1"),
        ("deadline_s: .inf", "0.1"),
        ("cache_gib: -1", "0"),
        ("cache_gib: .inf", "0"),
    ],
)
def test_a_value_out_of_range_is_told_the_least(tmp_path: Path, text: str, least: str) -> None:
    assert f"at least {least} needed" in str(refused(written(tmp_path, text)))


def test_the_command_line_has_the_same_settings_of_an_answer() -> None:
    assert tuple(cli_options.ANSWERING) == config.ANSWERING
    assert set(Settings().answering) == set(config.ANSWERING)


def test_drawing_and_looking_for_the_likeliest_exclude_each_other(tmp_path: Path) -> None:
    assert "give one of them" in str(refused(written(tmp_path, "num_beams: 3\ntemperature: 0.2")))


def test_dominant_and_contextual_come_together(tmp_path: Path) -> None:
    for name in ("dominant", "contextual"):
        assert "both or neither" in str(refused(written(tmp_path, f"{name}: 3")))
        assert "both or neither" in str(refused(**{name: 3}))
    settings = config.load(dominant=3, contextual=2)
    assert (settings.dominant, settings.contextual) == (3, 2)


@pytest.mark.parametrize("text", ["- frames", "frames", "0", "false", "[]", "''"])
def test_a_file_that_is_no_mapping(tmp_path: Path, text: str) -> None:
    assert "lines of `name: value` are expected" in str(refused(written(tmp_path, text)))


@pytest.mark.parametrize("text", ["frames: [", "\tframes: 8", "a: b: c", "end_s: 2024-13-45"])
def test_a_file_that_is_no_yaml(tmp_path: Path, text: str) -> None:
    assert "not readable as YAML" in str(refused(written(tmp_path, text)))


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "film.mp4").write_bytes(b"\0\0\0\x20ftypisom\xff\xfe")
    assert "not readable as YAML" in str(refused(tmp_path / "film.mp4"))
    assert str(refused(tmp_path / "none.yaml")).endswith(": No such file or directory")
    assert str(refused(tmp_path)).endswith(": Is a directory")


def test_yaml_builds_no_objects(tmp_path: Path) -> None:
    refused(written(tmp_path, f"model: !!python/object/apply:os.mkdir ['{tmp_path}/made']"))
    assert not (tmp_path / "made").exists()
