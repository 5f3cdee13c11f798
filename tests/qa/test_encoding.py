"""Videos become tokens once, on a small random model and real files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import vzvideo
from tests.tolerances import FEATURES_F32
from tests.video import clips
from vzvideo.errors import SettingsError, VideoError
from vzvideo.qa.video_qa import VideoQA
from vzvideo.types import FrameBatch
from vzvideo.video.frames import frames_of


def test_second_ask_decodes_and_encodes_nothing(
    qa: VideoQA, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = qa.ask(clip, "What happens?", frames=4)

    def never(*_: object, **__: object) -> None:
        raise AssertionError("the cache should have answered")

    monkeypatch.setattr(qa.encoder, "encode", never)
    second = qa.ask(clip, "What happens?", frames=4)
    assert second.cached
    assert (second.seconds["decode"], second.seconds["encode"]) == (0, 0)
    assert (second.text, second.frame_times_s) == (first.text, first.frame_times_s)
    with pytest.raises(AssertionError, match="cache"):
        qa.ask(clip, "What happens?", frames=5)
    with pytest.raises(AssertionError, match="cache"):
        qa.ask(clip, "What happens?", frames=4, merge="mean")


def test_frames_fitted_otherwise_are_kept_apart(qa: VideoQA, clip: Path, tmp_path: Path) -> None:
    cropped, padded = qa.encode(clip, frames=4), qa.encode(clip, frames=4, fit="pad")
    assert (cropped.settings["cropped"], padded.settings["cropped"]) == (0.25, 0)
    assert not torch.equal(cropped.features, padded.features)
    for fit, cached in ((None, cropped), ("crop", cropped), ("pad", padded)):
        again = qa.encode_timed(clip, frames=4, fit=fit)
        assert again.cached
        assert torch.equal(again.tokens.features, cached.features)
    padded.save(tmp_path / "padded.safetensors")
    assert vzvideo.VisualTokens.load(tmp_path / "padded.safetensors").settings["fit"] == "pad"
    with pytest.raises(SettingsError, match="fit: these tokens are encoded already"):
        qa.ask(padded, "What happens?", fit="pad")


def test_a_clip_zipped_across_frames_is_kept_apart(qa: VideoQA, clip: Path) -> None:
    each, across = qa.encode(clip, frames=8), qa.encode(clip, frames=8, temporal="on")
    assert len(across) == len(each)
    assert (across.until - across.frame > 1).any()
    assert 0 < across.settings["static"] < 1
    again = qa.encode_timed(clip, frames=8, temporal="on")
    assert again.cached
    assert torch.equal(again.tokens.features, across.features)
    # Of as many frames in memory, and in batches of another size, the same.
    recipe = qa.recipe(frames=8)
    with frames_of(str(clip), recipe.settings, recipe.frames, recipe.size) as found:
        parts = list(found.batches)
    pixels = np.concatenate([part.pixels for part in parts])
    frames = FrameBatch(pixels, np.concatenate([part.pts_s for part in parts]))
    for batch in (1, 3, 8):
        same = qa.encode(frames, temporal="on", batch=batch)
        np.testing.assert_array_equal(same.until, across.until)
        torch.testing.assert_close(same.features, across.features)
    with pytest.raises(SettingsError, match="temporal: these tokens are encoded already"):
        qa.ask(across, "What happens?", temporal="off")


def test_an_edited_file_is_encoded_again(qa: VideoQA, clip: Path, tmp_path: Path) -> None:
    movie = tmp_path / "movie.mp4"
    movie.write_bytes(clip.read_bytes())
    qa.ask(movie, "What happens?")
    assert qa.ask(movie, "What happens?").cached
    with movie.open("ab") as file:
        file.write(b"\0" * 8)
    assert not qa.ask(movie, "What happens?").cached


def test_no_cache_keeps_nothing(
    checkpoint: Path, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VZVIDEO_CACHE", str(tmp_path / "cache"))
    qa = vzvideo.load(str(checkpoint), cache=False)
    qa.encode(clip)
    assert not (tmp_path / "cache").exists()


def test_what_names_other_files_is_not_kept(qa: VideoQA, tmp_path: Path) -> None:
    """A playlist stays as it is while a segment that it names changes."""
    playlist, segment = tmp_path / "list.m3u8", tmp_path / "a.ts"
    head = "#EXTM3U\n#EXT-X-TARGETDURATION:6\n#EXTINF:6.0,\na.ts\n#EXT-X-ENDLIST\n"
    playlist.write_text(head)
    kind = next(kind for kind in clips.KINDS if (kind.name, kind.suffix) == ("open GOP", ".ts"))
    clips.write(kind, segment)
    before = qa.encode_timed(playlist)
    assert not qa.encode_timed(playlist).cached
    clips.write(replace(kind, frames=30), segment)
    after = qa.encode_timed(playlist)
    assert not after.cached
    assert after.tokens.pts_s[-1] < before.tokens.pts_s[-1]


@pytest.mark.parametrize("sampling", ["uniform", "fps", "keyframes", "scenes"])
def test_every_sampling_stays_inside_the_clip(qa: VideoQA, clip: Path, sampling: str) -> None:
    tokens = qa.encode(clip, sampling=sampling, fps=5.0, start_s=0.4, end_s=1.2)
    assert (tokens.pts_s >= 0.4 - 0.041).all()
    assert (tokens.pts_s < 1.2).all()
    if sampling == "fps":
        np.testing.assert_allclose(tokens.pts_s, [0.4, 0.6, 0.8, 1.0], atol=0.041)


def test_batches_change_nothing(checkpoint: Path, clip: Path) -> None:
    qa = vzvideo.load(str(checkpoint), cache=False, tokens_per_frame=5)
    one = qa.encode(clip, frames=7, batch=1)
    three = qa.encode(clip, frames=7, batch=3)
    assert three is not one
    assert one.features.shape == three.features.shape
    np.testing.assert_allclose(one.features.numpy(), three.features.numpy(), atol=1e-5)
    for name in ("frame", "role", "patch", "pts_s"):
        np.testing.assert_array_equal(getattr(one, name), getattr(three, name))


def test_token_file_takes_a_videos_place(qa: VideoQA, clip: Path, tmp_path: Path) -> None:
    path = tmp_path / "movie.vz.safetensors"
    qa.encode(clip, frames=4).save(path)
    assert qa.ask(path, "What happens?").text == qa.ask(clip, "What happens?", frames=4).text
    assert qa.chat(path).ask("What happens?").tokens == 20


@pytest.mark.parametrize(("start_s", "end_s"), [(99.0, None), (1.0, 0.5), (-1.0, None)])
def test_a_clip_outside_the_video_is_refused(
    qa: VideoQA, clip: Path, start_s: float, end_s: float | None
) -> None:
    with pytest.raises(VideoError, match="choose a start"):
        qa.encode(clip, start_s=start_s, end_s=end_s)


def test_what_was_asked_and_lost_is_known_from_the_cache_too(
    qa: VideoQA, clip: Path, tmp_path: Path
) -> None:
    first = qa.encode_timed(clip, frames=60)
    again = qa.encode_timed(clip, frames=60)
    assert (first.cached, again.cached) == (False, True)
    assert first.asked == again.asked == 60
    assert first.tokens.frames == 40
    first.tokens.save(tmp_path / "kept.safetensors")
    assert qa.encode_timed(tmp_path / "kept.safetensors").asked == 60


def test_what_is_encoded_already_is_not_encoded_again(
    qa: VideoQA, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded = qa.encode_timed(clip, frames=4)
    monkeypatch.setattr(qa.encoder, "encode", lambda *_: pytest.fail("encoded again"))
    questions = ["Who is there?", "What do they wear?"]
    answers = qa.ask_many(encoded, questions)
    assert [answer.question for answer in answers] == questions
    alone = qa.ask(encoded, questions[0])
    assert alone.text == answers[0].text
    # With what it took, and whether it came from the cache.
    assert (alone.cached, encoded.cached) == (False, False)
    assert alone.seconds["decode"] == pytest.approx(encoded.seconds["decode"], abs=1e-4)
    assert qa.encode_timed(encoded) is encoded
    assert qa.encode(encoded) is encoded.tokens
    assert qa.chat(encoded).ask("Who?").tokens == 20
    with pytest.raises(SettingsError, match="encoded already"):
        qa.ask(encoded, "Who?", frames=3)


def test_spans_say_when_each_stage_worked(qa: VideoQA, clip: Path) -> None:
    encoded = qa.encode_timed(clip, frames=4)
    assert {span.stage for span in encoded.spans} == {"decode", "encode"}
    assert all(span.begun_s <= span.ended_s for span in encoded.spans)
    for stage, seconds in encoded.seconds.items():
        each = [span.ended_s - span.begun_s for span in encoded.spans if span.stage == stage]
        assert sum(each) == pytest.approx(seconds)
    assert qa.encode_timed(clip, frames=4).spans == []


@pytest.mark.parametrize("source", [["a.mp4"], None, 3])
def test_what_is_no_source_is_named(qa: VideoQA, source: Any) -> None:
    with pytest.raises(SettingsError, match=f"source: {type(source).__name__} given"):
        qa.encode(source)


def test_frames_in_memory_are_asked_as_those_of_a_file(qa: VideoQA, clip: Path) -> None:
    with vzvideo.open_video(clip) as video:
        frames = video.frames_at([0.1, 0.6, 1.1])
    expected = qa.encode(frames)
    for given in (frames.pixels, np.ascontiguousarray(frames.pixels)):
        tokens = qa.encode(given)
        assert torch.equal(tokens.features, expected.features)
    assert qa.ask(frames, "What happens?").frame_times_s == pytest.approx(frames.pts_s)
    one = qa.encode(Image.fromarray(frames.pixels[1]))
    at = expected.frame == 1
    torch.testing.assert_close(one.features, expected.features[at], atol=FEATURES_F32, rtol=0)
    assert [a.text for a in qa.ask_many(frames, ["Who?", "Where?"])] == [
        qa.ask(expected, question).text for question in ("Who?", "Where?")
    ]


@pytest.mark.parametrize(
    "frames", [np.zeros((4, 4)), np.zeros((4, 4, 4), np.uint8), np.zeros((0, 4, 4, 3), np.uint8)]
)
def test_frames_of_another_kind_are_refused(qa: VideoQA, frames: Any) -> None:
    with pytest.raises(SettingsError, match=r"uint8 \(H, W, 3\) or \(T, H, W, 3\) is needed"):
        qa.encode(frames)
