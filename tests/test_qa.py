"""The whole local path on a small random model and real files: encode, keep, ask."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import vzvideo
from vzvideo.errors import BudgetError, ModelError, SettingsError, VideoError
from vzvideo.qa import VideoQA
from vzvideo.types import Role


@pytest.fixture
def qa(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> VideoQA:
    """The small model with a token cache of its own."""
    monkeypatch.setenv("VZVIDEO_CACHE", str(tmp_path / "cache"))
    return vzvideo.load(str(checkpoint), tokens_per_frame=5, max_new_tokens=6)


def test_a_path_gives_an_answer_with_its_facts(qa: VideoQA, clip: Path) -> None:
    answer = qa.ask(clip, "What happens?", frames=4)
    assert answer.text
    assert answer.source == str(clip)
    assert (answer.tokens_before, answer.tokens) == (4 * 17, 4 * 5)
    np.testing.assert_allclose(answer.frame_times_s, [0.2, 0.6, 1.0, 1.4], atol=0.041)
    assert list(answer.seconds) == ["decode", "encode", "prefill", "generate"]
    assert all(seconds > 0 for seconds in answer.seconds.values())
    assert not answer.cached


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


@pytest.mark.parametrize("sampling", ["uniform", "fps", "keyframes", "scenes"])
def test_every_sampling_stays_inside_the_clip(qa: VideoQA, clip: Path, sampling: str) -> None:
    tokens = qa.encode(clip, sampling=sampling, fps=5.0, start_s=0.4, end_s=1.2)
    assert (tokens.pts_s >= 0.4 - 0.041).all()
    assert (tokens.pts_s < 1.2).all()
    if sampling == "fps":
        np.testing.assert_allclose(tokens.pts_s, [0.4, 0.6, 0.8, 1.0], atol=0.041)


def test_batches_change_nothing(qa: VideoQA, clip: Path) -> None:
    one = qa.encode(clip, frames=7, batch=1)
    qa._cache = None
    three = qa.encode(clip, frames=7, batch=3)
    assert one.features.shape == three.features.shape
    np.testing.assert_allclose(one.features.numpy(), three.features.numpy(), atol=1e-5)
    for name in ("frame", "role", "patch", "pts_s"):
        np.testing.assert_array_equal(getattr(one, name), getattr(three, name))


def test_dominant_and_contextual_can_be_chosen(qa: VideoQA, clip: Path) -> None:
    tokens = qa.encode(clip, frames=2, dominant=4, contextual=3)
    roles = [Role.CLS] + [Role.DOMINANT] * 3 + [Role.CONTEXTUAL] * 3
    assert tokens.role.tolist() == roles * 2
    assert (
        qa.encode(clip, frames=2, compress=False).role.tolist()
        == ([Role.CLS] + [Role.DOMINANT] * 16) * 2
    )


def test_token_file_takes_a_videos_place(qa: VideoQA, clip: Path, tmp_path: Path) -> None:
    path = tmp_path / "movie.vz.safetensors"
    qa.encode(clip, frames=4).save(path)
    assert qa.ask(path, "What happens?").text == qa.ask(clip, "What happens?", frames=4).text
    assert qa.chat(path).ask("What happens?").tokens == 20


def test_tokens_of_another_model_are_refused(
    qa: VideoQA, clip: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    from tests.conftest import small_model, write_checkpoint

    other = write_checkpoint(tmp_path_factory.mktemp("other"), small_model(seed=1))
    vzvideo.load(str(other)).encode(clip).save(tmp_path / "other.safetensors")
    with pytest.raises(ModelError, match="encode the video again"):
        qa.ask(tmp_path / "other.safetensors", "What happens?")


def test_conversation_pays_for_the_video_once(qa: VideoQA, clip: Path) -> None:
    chat = qa.chat(clip, frames=4)
    first, second = chat.ask("Who is there?"), chat.ask("What do they wear?")
    assert first.seconds["prefill"] > 0
    assert first.seconds["encode"] > 0
    assert second.seconds | {"generate": 0} == dict.fromkeys(first.seconds, 0.0)


def test_one_conversation_does_not_disturb_another_or_a_question(qa: VideoQA, clip: Path) -> None:
    tokens = qa.encode(clip, frames=4)
    alone = [qa.chat(tokens).ask("Who is there?").text, qa.ask(tokens, "Where is this?").text]
    one, two = qa.chat(tokens), qa.chat(tokens)
    one.ask("What happens first?")
    assert two.ask("Who is there?").text == alone[0]
    assert qa.ask(tokens, "Where is this?").text == alone[1]


def test_many_answers_as_one_by_one(qa: VideoQA, clip: Path) -> None:
    questions = ["Who is there?", "What do they wear?", "Is there a cat?"]
    tokens = qa.encode(clip, frames=4)
    answers = qa.ask_many(tokens, questions)
    assert [a.text for a in answers] == [qa.ask(tokens, q).text for q in questions]
    assert [a.question for a in answers] == questions
    assert qa.ask_many(tokens, []) == []


def test_beams_reach_the_model_however_it_is_asked(qa: VideoQA, clip: Path) -> None:
    tokens, question = qa.encode(clip, frames=4), "Is there a cat?"
    prefix = qa.language.read(tokens)
    said = qa.language.answer(prefix, question, max_new_tokens=6, num_beams=3)
    assert said != qa.ask(tokens, question).text
    assert qa.ask(tokens, question, num_beams=3).text == said
    assert qa.ask_many(tokens, [question], num_beams=3)[0].text == said
    assert qa.chat(tokens, num_beams=3).ask(question).text == said
    assert list(qa.stream_answer(tokens, question, num_beams=3)) == [said]


def test_pieces_add_up_to_the_answer(qa: VideoQA, clip: Path) -> None:
    tokens = qa.encode(clip, frames=4)
    assert "".join(qa.stream_answer(tokens, "Who?")).strip() == qa.ask(tokens, "Who?").text


def test_what_cannot_fit_says_what_would(qa: VideoQA, clip: Path) -> None:
    with pytest.raises(BudgetError, match=r"what would fit: \d+ frames at 5 tokens each") as error:
        qa.ask(clip, "What happens?", frames=400)
    fits = int(str(error.value).split("would fit: ")[1].split()[0])
    assert f"{fits} frames x 5" in str(qa.plan("What happens?", frames=fits))
    with pytest.raises(BudgetError):
        qa.plan("What happens?", frames=fits + 1)


def test_a_rate_that_makes_too_many_frames_names_one_that_fits(qa: VideoQA, clip: Path) -> None:
    with pytest.raises(SettingsError, match="choose at most --fps") as error:
        qa.encode(clip, sampling="fps", fps=100.0)
    rate = float(str(error.value).split("--fps ")[1].split(",")[0])
    assert qa.encode(clip, sampling="fps", fps=rate).frames > 1


@pytest.mark.parametrize("frames", [0, -1, 10**9])
def test_absurd_frames_are_refused(qa: VideoQA, clip: Path, frames: int) -> None:
    with pytest.raises((SettingsError, BudgetError), match="frames"):
        qa.encode(clip, frames=frames)


@pytest.mark.parametrize(("start_s", "end_s"), [(99.0, None), (1.0, 0.5), (-1.0, None)])
def test_a_clip_outside_the_video_is_refused(
    qa: VideoQA, clip: Path, start_s: float, end_s: float | None
) -> None:
    with pytest.raises(VideoError, match="choose a start"):
        qa.encode(clip, start_s=start_s, end_s=end_s)


def test_an_empty_question_and_an_unknown_setting_are_refused(qa: VideoQA, clip: Path) -> None:
    with pytest.raises(SettingsError, match="empty"):
        qa.ask(clip, "  ")
    with pytest.raises(SettingsError, match="'frames'"):
        qa.ask(clip, "What?", frame=3)
    with pytest.raises(SettingsError, match="UTF-8"):
        qa.ask(clip, "Who\udcff?")
    with pytest.raises(SettingsError, match="text is needed"):
        qa.ask(clip, None)  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match="a list"):
        qa.ask_many(clip, "Who?")  # type: ignore[arg-type]


def test_real_clips(qa: VideoQA, real_clips: list[Path]) -> None:
    for path in real_clips:
        answer = qa.ask(path, "What happens?", frames=8)
        assert len(answer.frame_times_s) == 8
        assert answer.text


def test_the_settings_name_the_model(checkpoint: Path) -> None:
    settings = vzvideo.Settings(model=str(checkpoint), cache=False)
    assert vzvideo.load(settings=settings).name == str(checkpoint)


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


def test_what_is_said_last_wins(qa: VideoQA, clip: Path) -> None:
    split = qa.settings.replace(dominant=4, contextual=3)
    assert split.replace(tokens_per_frame=9).dominant is None
    assert split.replace(fps=2.0).sampling == "fps"
    assert qa.encode(clip, fps=5.0).frames == 8


def test_tokens_cannot_be_encoded_otherwise(qa: VideoQA, clip: Path) -> None:
    tokens = qa.encode(clip)
    with pytest.raises(SettingsError, match="encoded already"):
        qa.ask(tokens, "What?", frames=3)


def test_an_answer_in_hand_is_not_disturbed(qa: VideoQA, clip: Path) -> None:
    tokens = qa.encode(clip)
    pieces = qa.stream_answer(tokens, "What happens?")
    next(pieces)
    with pytest.raises(ModelError, match="still being generated"):
        qa.ask(tokens, "Who?")
    del pieces
    assert qa.ask(tokens, "Who?").text
    asking = qa.start(tokens, "Who?")
    asking.finish()
    with pytest.raises(RuntimeError, match="once"):
        asking.finish()


def test_an_empty_question_costs_a_conversation_nothing(qa: VideoQA, clip: Path) -> None:
    chat = qa.chat(clip)
    with pytest.raises(SettingsError):
        chat.ask(" ")
    assert chat.ask("Who?").seconds["prefill"] > 0


# -- evidence, and what is encoded already


def test_evidence_is_what_the_answer_attended_to(qa: VideoQA, clip: Path) -> None:
    encoded = qa.encode_timed(clip, frames=4)
    answer = qa.ask(encoded, "What happens?")
    found = qa.evidence(encoded, answer)
    assert found.tokens.shape == (20,)
    assert found.tokens.sum() == pytest.approx(1)
    np.testing.assert_allclose(found.frames, found.tokens.reshape(4, 5).sum(1))
    np.testing.assert_array_equal(found.pts_s, encoded.tokens.pts_s)
    prefix, _ = qa.read(encoded.tokens)
    attended = qa.language.attended(prefix, "What happens?", answer.text)
    np.testing.assert_allclose(found.tokens, attended, rtol=1e-5)
    # By tokens as by what they came in, and again later; and the answer stays what it was.
    np.testing.assert_array_equal(qa.evidence(encoded.tokens, answer).tokens, found.tokens)
    assert qa.ask(encoded, "What happens?").text == answer.text


def test_evidence_reads_the_video_only_where_it_is_another(
    qa: VideoQA, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = qa.encode(clip, frames=4)
    answer = qa.ask(tokens, "What happens?")
    expected = qa.evidence(tokens, answer)
    read, times = qa.language.read, []
    monkeypatch.setattr(qa.language, "read", lambda *given: times.append(1) or read(*given))
    qa.evidence(tokens, answer)
    assert times == []
    qa.forget()
    found = qa.evidence(tokens, answer)
    assert times == [1]
    np.testing.assert_allclose(found.tokens, expected.tokens, atol=1e-6)


def test_evidence_wants_the_tokens_that_were_asked(qa: VideoQA, clip: Path, tmp_path: Path) -> None:
    tokens = qa.encode(clip)
    answer = qa.ask(tokens, "What is the man doing?")
    with pytest.raises(SettingsError, match="is a video; give the tokens that were asked"):
        qa.evidence(clip, answer)
    kept = tmp_path / "kept.vz.safetensors"
    tokens.save(kept)
    np.testing.assert_array_equal(
        qa.evidence(kept, answer).tokens, qa.evidence(tokens, answer).tokens
    )


def test_an_asking_tells_its_evidence_at_its_end(qa: VideoQA, clip: Path) -> None:
    asking = qa.start(clip, "What happens?", frames=4)
    with pytest.raises(RuntimeError, match="at its end"):
        asking.evidence()
    answer = asking.finish()
    expected = qa.evidence(asking.encoded, answer)
    np.testing.assert_array_equal(asking.evidence().tokens, expected.tokens)
    talk = qa.chat(clip, frames=4).start("What happens?")
    talk.finish()
    with pytest.raises(RuntimeError, match="not for a conversation"):
        talk.evidence()


def test_what_is_encoded_already_is_not_encoded_again(
    qa: VideoQA, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded = qa.encode_timed(clip, frames=4)
    monkeypatch.setattr(qa, "_encode", lambda *_: pytest.fail("encoded again"))
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


def test_encoded_for_another_model_is_refused(qa: VideoQA, clip: Path) -> None:
    from dataclasses import replace

    encoded = qa.encode_timed(clip, frames=2)
    settings = encoded.tokens.settings | {"tower": "another"}
    other = replace(encoded, tokens=replace(encoded.tokens, settings=settings))
    with pytest.raises(ModelError, match="encode the video again"):
        qa.ask(other, "Who?")


def test_the_longest_question_is_the_one_of_most_tokens(qa: VideoQA) -> None:
    short, long = "Who is there in the meadow?", "\u4e2d\u6587\u4e2d\u6587\u4e2d\u6587\u4e2d\u6587?"
    assert len(long) < len(short)
    assert qa.language.prompts.length(long) > qa.language.prompts.length(short)
    assert qa.longest([short, long, "Who?"]) == long
    assert qa.longest([f"  {short} "]) == short
    with pytest.raises(SettingsError, match="empty"):
        qa.longest([short, " "])


def test_spans_say_when_each_stage_worked(qa: VideoQA, clip: Path) -> None:
    encoded = qa.encode_timed(clip, frames=4)
    assert {span.stage for span in encoded.spans} == {"decode", "encode"}
    assert all(span.begun_s <= span.ended_s for span in encoded.spans)
    for stage, seconds in encoded.seconds.items():
        each = [span.ended_s - span.begun_s for span in encoded.spans if span.stage == stage]
        assert sum(each) == pytest.approx(seconds)
    assert qa.encode_timed(clip, frames=4).spans == []
