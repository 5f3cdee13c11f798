"""The whole local path on a small random model and real files: encode, keep, ask."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vzvideo
from vzvideo.errors import ModelError, SettingsError
from vzvideo.models import attribution
from vzvideo.qa.video_qa import VideoQA


def test_a_path_gives_an_answer_with_its_facts(qa: VideoQA, clip: Path) -> None:
    answer = qa.ask(clip, "What happens?", frames=4)
    assert answer.text
    assert answer.source == str(clip)
    assert (answer.tokens_before, answer.tokens) == (4 * 17, 4 * 5)
    np.testing.assert_allclose(answer.frame_times_s, [0.2, 0.6, 1.0, 1.4], atol=0.041)
    assert list(answer.seconds) == ["decode", "encode", "prefill", "generate"]
    assert all(seconds > 0 for seconds in answer.seconds.values())
    assert not answer.cached


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
    prefix = qa.language.prefill(tokens)
    said = qa.language.answer(prefix, question, max_new_tokens=6, num_beams=3)
    assert said != qa.ask(tokens, question).text
    assert qa.ask(tokens, question, num_beams=3).text == said
    assert qa.ask_many(tokens, [question], num_beams=3)[0].text == said
    assert qa.chat(tokens, num_beams=3).ask(question).text == said
    assert list(qa.stream_answer(tokens, question, num_beams=3)) == [said]


def test_pieces_add_up_to_the_answer(qa: VideoQA, clip: Path) -> None:
    tokens = qa.encode(clip, frames=4)
    assert "".join(qa.stream_answer(tokens, "Who?")).strip() == qa.ask(tokens, "Who?").text


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


def test_evidence_is_what_makes_the_answer_likely(qa: VideoQA, clip: Path) -> None:
    encoded = qa.encode_timed(clip, frames=4)
    answer = qa.ask(encoded, "What happens?")
    found = qa.evidence(encoded, answer)
    assert found.tokens.shape == (20,)
    assert found.tokens.sum() == pytest.approx(1)
    np.testing.assert_allclose(found.frames, found.tokens.reshape(4, 5).sum(1))
    np.testing.assert_array_equal(found.pts_s, encoded.tokens.pts_s)
    prefix, _ = qa.prefill(encoded.tokens)
    asked = (prefix, "What happens?", answer.text)
    told, neutral = attribution.frame_log_likelihoods(
        qa.language, *asked[:2], [answer.text, "Something is shown."], encoded.tokens.covers()
    )
    length = len(qa.language.tokenizer(answer.text, add_special_tokens=False).input_ids)
    likely = np.exp(np.subtract(told, neutral) * min(length, 4))
    np.testing.assert_allclose(found.frames, likely / likely.sum(), rtol=1e-5)
    # Within a frame by where the answer looked.
    attended = attribution.attention_to_video(qa.language, *asked).numpy().reshape(4, 5)
    within = found.tokens.reshape(4, 5) / found.frames[:, None]
    np.testing.assert_allclose(within, attended / attended.sum(1, keepdims=True), rtol=1e-5)
    # By tokens as by what they came in, and again later; and the answer stays what it was.
    np.testing.assert_array_equal(qa.evidence(encoded.tokens, answer).tokens, found.tokens)
    assert qa.ask(encoded, "What happens?").text == answer.text


def test_evidence_reads_the_video_only_where_it_is_another(
    qa: VideoQA, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = qa.encode(clip, frames=4)
    answer = qa.ask(tokens, "What happens?")
    expected = qa.evidence(tokens, answer)
    prefill, times = qa.language.prefill, []
    monkeypatch.setattr(qa.language, "prefill", lambda *given: times.append(1) or prefill(*given))
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
    assert qa.longest_question([short, long, "Who?"]) == long
    assert qa.longest_question([f"  {short} "]) == short
    with pytest.raises(SettingsError, match="empty"):
        qa.longest_question([short, " "])


@pytest.mark.parametrize(
    "change", [{"model": "video-llava-7b"}, {"device": "cuda"}, {"dtype": "float16"},
               {"quantize": "4bit"}, {"cache": False}, {"cache_gib": 1.0}],
)  # fmt: skip
def test_what_only_loading_can_change_is_refused(
    qa: VideoQA, clip: Path, change: dict[str, Any]
) -> None:
    for ask, *given in (
        (qa.ask, clip, "Who?"), (qa.ask_many, clip, ["Who?"]), (qa.chat, clip), (qa.encode, clip),
        (qa.recipe,), (qa.plan,),
    ):  # fmt: skip
        with pytest.raises(SettingsError, match="the model is loaded already"):
            ask(*given, **change)


def test_prefill_is_told_before_it_begins(qa: VideoQA, clip: Path) -> None:
    told: list[tuple[str, int, int]] = []
    qa.ask(clip, "Who?", frames=4, progress=lambda *step: told.append(step))
    assert told[-2:] == [("encode", 4, 4), ("prefill", 0, 0)]
    qa.ask(clip, "Where?", frames=4, progress=lambda *step: told.append(step))
    assert told.count(("prefill", 0, 0)) == 1  # it has been read
