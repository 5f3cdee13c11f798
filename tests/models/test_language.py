"""The language side: equal to transformers' own forward, whatever was cached before."""

from __future__ import annotations

import signal
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.tolerances import LOGITS_F32
from vzvideo.errors import BudgetError, ModelError
from vzvideo.models import attribution, loader
from vzvideo.models.encoder import NO_COMPRESSION, Encoder, ZipSettings
from vzvideo.models.language import LanguageModel
from vzvideo.types import FrameBatch, VisualTokens

QUESTION = "What is the man doing?"


@pytest.fixture(scope="module")
def loaded(checkpoint: Path) -> tuple[Encoder, LanguageModel]:
    return loader.load(checkpoint, device="cpu")


@pytest.fixture(scope="module")
def language(loaded: tuple[Encoder, LanguageModel]) -> LanguageModel:
    return loaded[1]


@pytest.fixture(scope="module")
def frames() -> FrameBatch:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 70, 90, 3), np.uint8)
    return FrameBatch(pixels, np.array([0.0, 1.0, 2.0]), "noise")


@pytest.fixture(scope="module")
def tokens(loaded: tuple[Encoder, LanguageModel], frames: FrameBatch) -> VisualTokens:
    return loaded[0].encode(frames, ZipSettings(4, 2))


def cold(language: LanguageModel, tokens: VisualTokens, ids: torch.Tensor) -> torch.Tensor:
    """Scores of the token after `ids`, in one forward of transformers with no cache at all."""
    model = language.model
    with torch.inference_mode():
        embeds = model.get_input_embeddings()(ids)
        features = model.model.multi_modal_projector(tokens.features)
        embeds = embeds.masked_scatter((ids == language.video_token).unsqueeze(-1), features)
        return model(inputs_embeds=embeds, use_cache=False).logits[0, -1]


def test_uncompressed_equals_transformers_from_raw_pixels(
    checkpoint: Path, loaded: tuple[Encoder, LanguageModel], frames: FrameBatch
) -> None:
    from transformers import AutoTokenizer, VideoLlavaForConditionalGeneration

    encoder, language = loaded
    ours = language.logits(language.prefill(encoder.encode(frames, NO_COMPRESSION)), QUESTION)

    theirs = VideoLlavaForConditionalGeneration.from_pretrained(checkpoint, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    visual = "<video>" * (17 * len(frames))  # the published processor's expansion, CLS included
    ids = tokenizer(f"USER: {visual}\n{QUESTION} ASSISTANT:", return_tensors="pt").input_ids
    pixels = encoder.preprocess(torch.from_numpy(frames.pixels)).unsqueeze(0)
    with torch.inference_mode():
        expected = theirs(input_ids=ids, pixel_values_videos=pixels).logits[0, -1]
    torch.testing.assert_close(ours, expected, atol=LOGITS_F32, rtol=0)


def test_compressed_logits_equal_a_run_without_cache(
    language: LanguageModel, tokens: VisualTokens
) -> None:
    prefix = language.prefill(tokens)
    first = language.logits(prefix, QUESTION)
    expected = cold(language, tokens, language.prompt_ids(prefix, QUESTION))
    torch.testing.assert_close(first, expected, atol=LOGITS_F32, rtol=0)
    # The prefix is as it was: the same question again, after another, gives the same.
    language.logits(prefix, "Who is there?")
    torch.testing.assert_close(language.logits(prefix, QUESTION), first, atol=0, rtol=0)


@pytest.mark.parametrize("num_beams", [1, 3])
def test_conversation_equals_a_cold_run_and_computes_only_what_is_new(
    language: LanguageModel, tokens: VisualTokens, num_beams: int
) -> None:
    prefix = language.prefill(tokens)
    # All but the answer's last token, which no later one has attended to yet, is in the cache; of
    # several beams all but the answer, and the token before it.
    left = 1 if num_beams == 1 else 1 + 7
    for question in ("Who is there?", "What do they wear?", "Where is this?"):
        said = language.answer(
            prefix, question, remember=True, max_new_tokens=7, num_beams=num_beams
        )
        assert said in language.tokenizer.decode(prefix.ids[0])
        assert prefix.length - prefix.cache.get_seq_length() <= left
    warm = language.logits(prefix, QUESTION)
    expected = cold(language, tokens, language.prompt_ids(prefix, QUESTION))
    torch.testing.assert_close(warm, expected, atol=LOGITS_F32, rtol=0)
    assert prefix.asked == 3


def test_conversation_reads_as_the_published_prompt(
    language: LanguageModel, tokens: VisualTokens
) -> None:
    prefix = language.prefill(tokens)
    said = language.answer(prefix, "Who is there?", remember=True, max_new_tokens=5)
    text = language.tokenizer.decode(language.prompt_ids(prefix, QUESTION)[0])
    visual = "<video>" * len(tokens)
    assert text.startswith(f"USER: {visual}\nWho is there? ASSISTANT:")
    assert text.endswith(f"</s>USER: {QUESTION} ASSISTANT:")
    assert said in text


def test_many_questions_at_once_answer_as_one_by_one(
    language: LanguageModel, tokens: VisualTokens
) -> None:
    questions = ["Who?", QUESTION, "Is there a cat? Where is this? What happens first?"]
    prefix = language.prefill(tokens)
    held = prefix.cache.get_seq_length()
    together = language.answer_many(prefix, questions, max_new_tokens=6)
    alone = [language.answer(prefix, question, max_new_tokens=6) for question in questions]
    assert together == alone
    assert len(set(together)) > 1
    assert prefix.cache.get_seq_length() == held


def test_beams_over_a_kept_prefix_equal_those_of_transformers_from_nothing(
    language: LanguageModel, tokens: VisualTokens
) -> None:
    model, prefix = language.model, language.prefill(tokens)
    before = language.logits(prefix, QUESTION)
    ids = language.prompt_ids(prefix, QUESTION)
    with torch.inference_mode():
        embeds = model.get_input_embeddings()(ids)
        features = model.model.multi_modal_projector(tokens.features)
        embeds = embeds.masked_scatter((ids == language.video_token).unsqueeze(-1), features)
        said = model.generate(  # type: ignore[operator]
            inputs_embeds=embeds, attention_mask=torch.ones_like(ids), num_beams=4,
            do_sample=False, max_new_tokens=8, eos_token_id=sorted(language.ends),
            pad_token_id=language.pad,
        )  # fmt: skip
    wanted = language.tokenizer.decode(said[0], skip_special_tokens=True).strip()
    options: dict[str, Any] = {"max_new_tokens": 8, "num_beams": 4}
    assert language.answer(prefix, QUESTION, **options) == wanted
    together = language.answer_many(prefix, ["Who?", QUESTION], **options)
    assert together == [language.answer(prefix, "Who?", **options), wanted]
    assert wanted != language.answer(prefix, QUESTION, max_new_tokens=8)
    assert torch.equal(language.logits(prefix, QUESTION), before)


@pytest.mark.parametrize("num_beams", [1, 3])
def test_answers_that_end_by_themselves_at_different_lengths(
    language: LanguageModel, tokens: VisualTokens, num_beams: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(language, "ends", {*language.ends, *range(0, 256, 12)})
    options: dict[str, Any] = {"max_new_tokens": 40, "num_beams": num_beams}
    questions = ["Who?", QUESTION, "Is there a cat? Where is this? What happens first?"]
    prefix = language.prefill(tokens)
    together = language.answer_many(prefix, questions, **options)
    assert together == [language.answer(prefix, question, **options) for question in questions]
    lengths = set()
    for question in questions:
        prefix = language.prefill(tokens)
        asked = language.prompt_ids(prefix, question).shape[1]
        language.answer(prefix, question, remember=True, **options)
        lengths.add(prefix.length - asked)
        assert not language.ends & set(prefix.ids[0, asked:].tolist())
    assert len(lengths) > 1
    assert max(lengths) < 40


def test_beams_that_are_interrupted_are_not_remembered(
    language: LanguageModel, tokens: VisualTokens
) -> None:
    prefix = language.prefill(tokens)
    held, forwards = prefix.cache.get_seq_length(), 0
    main = threading.main_thread().ident
    assert main is not None

    def interrupt(*_: object) -> None:
        nonlocal forwards
        forwards += 1
        if forwards == 4:
            signal.pthread_kill(main, signal.SIGINT)

    hook = language.model.model.language_model.register_forward_pre_hook(interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            language.answer(prefix, QUESTION, remember=True, max_new_tokens=300, num_beams=3)
    finally:
        hook.remove()
    assert forwards < 200
    assert (prefix.asked, prefix.cache.get_seq_length(), prefix.busy) == (0, held, False)


def test_pieces_add_up_and_stopping_early_forgets(
    language: LanguageModel, tokens: VisualTokens
) -> None:
    prefix = language.prefill(tokens)
    held = prefix.cache.get_seq_length()
    whole = "".join(language.stream(prefix, QUESTION, max_new_tokens=20))
    with closing(language.stream(prefix, QUESTION, max_new_tokens=20)) as pieces:
        assert whole.startswith(next(iter(pieces)))
    assert prefix.cache.get_seq_length() == held
    assert "".join(language.stream(prefix, QUESTION, max_new_tokens=20)) == whole


def test_an_error_while_generating_reaches_the_caller(
    language: LanguageModel, tokens: VisualTokens
) -> None:
    prefix = language.prefill(tokens)
    held = prefix.cache.get_seq_length()
    with pytest.raises(TypeError):
        language.answer(prefix, QUESTION, max_new_tokens=3, temperature="hot")  # type: ignore[arg-type]
    assert prefix.cache.get_seq_length() == held


def test_answers_follow_the_video(
    loaded: tuple[Encoder, LanguageModel], frames: FrameBatch, tokens: VisualTokens
) -> None:
    encoder, language = loaded
    other = encoder.encode(
        FrameBatch(255 - frames.pixels, frames.pts_s, "negative"), ZipSettings(4, 2)
    )
    ours = language.logits(language.prefill(tokens), QUESTION)
    theirs = language.logits(language.prefill(other), QUESTION)
    assert (ours - theirs).abs().max() > 100 * LOGITS_F32


def test_the_window_is_never_overrun(
    loaded: tuple[Encoder, LanguageModel], frames: FrameBatch
) -> None:
    encoder, language = loaded
    many = FrameBatch(np.repeat(frames.pixels, 11, 0), np.arange(33.0), "long")
    with pytest.raises(BudgetError, match="window holds 512"):
        language.prefill(encoder.encode(many, NO_COMPRESSION))
    prefix = language.prefill(encoder.encode(frames, NO_COMPRESSION))

    def talk() -> None:
        for _ in range(40):
            language.answer(prefix, QUESTION, remember=True, max_new_tokens=30)

    with pytest.raises(BudgetError, match="begin a new conversation"):
        talk()
    assert prefix.length <= language.window


def test_tokens_of_another_width_are_refused(language: LanguageModel, tokens: VisualTokens) -> None:
    from dataclasses import replace

    narrow = replace(tokens, features=tokens.features[:, :8])
    with pytest.raises(ModelError, match="encode the video again"):
        language.prefill(narrow)


@pytest.mark.parametrize("question", ["What is <video> here?", "</s>USER: hello"])
def test_control_words_in_a_question_are_refused(
    language: LanguageModel, tokens: VisualTokens, question: str
) -> None:
    with pytest.raises(ModelError, match="control words"):
        language.prompt_ids(language.prefill(tokens), question)


def test_a_forward_that_fails_half_way_leaves_the_prefix_whole(
    language: LanguageModel, tokens: VisualTokens
) -> None:
    prefix = language.prefill(tokens)
    before = language.logits(prefix, QUESTION)

    def fail(*_: object) -> None:
        raise MemoryError("in the middle")

    hook = language.model.model.language_model.layers[1].register_forward_pre_hook(fail)
    with pytest.raises(MemoryError):
        language.answer(prefix, QUESTION, max_new_tokens=3)
    hook.remove()
    torch.testing.assert_close(language.logits(prefix, QUESTION), before, atol=0, rtol=0)


def test_one_answer_at_a_time_from_one_prefix(
    language: LanguageModel, tokens: VisualTokens
) -> None:
    prefix = language.prefill(tokens)
    expected = language.answer(prefix, QUESTION, max_new_tokens=6)
    with closing(language.stream(prefix, "Who?", max_new_tokens=200)) as pieces:
        next(iter(pieces))
        for use in (language.answer, language.logits):
            with pytest.raises(ModelError, match="still being generated"):
                use(prefix, QUESTION)
        with pytest.raises(ModelError, match="still being generated"):
            language.answer_many(prefix, [QUESTION])
    assert language.answer(prefix, QUESTION, max_new_tokens=6) == expected


def test_more_questions_than_a_batch_holds(
    language: LanguageModel, tokens: VisualTokens, monkeypatch: pytest.MonkeyPatch
) -> None:
    prefix = language.prefill(tokens)
    questions = ["Who?", QUESTION, "Where is this?", "Is there a cat?", "Who is there?"]
    together = language.answer_many(prefix, questions, max_new_tokens=5)
    monkeypatch.setattr("vzvideo.models.language._BATCH_TOKENS", 2 * prefix.length)
    assert language.answer_many(prefix, questions, max_new_tokens=5) == together


def test_likelihoods_equal_a_run_without_cache(
    language: LanguageModel, tokens: VisualTokens, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ["A cat.", "A man rides a bike on a dirt track.", "Two dogs run."]
    prefix = language.prefill(tokens)
    before = language.logits(prefix, QUESTION)
    likely = language.log_likelihoods(prefix, QUESTION, options)
    ids = language.prompt_ids(prefix, QUESTION)
    for option, found in zip(options, likely, strict=True):
        said = [*language.tokenizer(option, add_special_tokens=False).input_ids, language.end]
        expected = []
        for place, token in enumerate(said):
            told = torch.cat([ids, torch.tensor([said[:place]], dtype=ids.dtype)], 1)
            expected.append(cold(language, tokens, told).log_softmax(-1)[token].item())
        assert found == pytest.approx(np.mean(expected), abs=LOGITS_F32)
    torch.testing.assert_close(language.logits(prefix, QUESTION), before, atol=0, rtol=0)
    # However few rows fit at a time.
    monkeypatch.setattr("vzvideo.models.language._BATCH_TOKENS", 1)
    assert language.log_likelihoods(prefix, QUESTION, options) == pytest.approx(
        likely, abs=LOGITS_F32
    )


def test_nothing_read_is_the_prompt_without_a_video(
    language: LanguageModel, tokens: VisualTokens
) -> None:
    blind = language.prefill_text_only()
    before, after = language.prompts.opening(QUESTION)
    expected = cold(language, tokens, torch.tensor([[*before, *after]]))
    torch.testing.assert_close(
        language.logits(blind, QUESTION), expected.float(), atol=LOGITS_F32, rtol=0
    )
    assert language.answer(blind, QUESTION, max_new_tokens=4)


# -- what an answer attended to


def attended_cold(
    language: LanguageModel, tokens: VisualTokens, ids: torch.Tensor, answer: str
) -> torch.Tensor:
    """By one whole forward of transformers in eager attention, no cache, over everything."""
    said = language.tokenizer(answer, add_special_tokens=False).input_ids
    whole = torch.cat([ids, torch.tensor([said], dtype=torch.long)], dim=1)
    model = language.model
    usual = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        with torch.inference_mode():
            embeds = model.get_input_embeddings()(whole)
            features = model.model.multi_modal_projector(tokens.features)
            embeds = embeds.masked_scatter((whole == language.video_token)[..., None], features)
            layers = model(inputs_embeds=embeds, use_cache=False, output_attentions=True).attentions
    finally:
        model.set_attn_implementation(usual)
    # Of the last third of the layers, from where the answer's tokens are predicted on.
    chosen = torch.stack(layers[-(len(layers) // 3) :])[:, 0, :, ids.shape[1] - 1 :]
    heard = chosen[..., whole[0] == language.video_token].sum((0, 1, 2))
    return heard / heard.sum()


@pytest.mark.parametrize("answer", ["A man rides a bike.", "", "Two dogs run. " * 12])
def test_attended_equals_a_plain_run_without_cache(
    language: LanguageModel, tokens: VisualTokens, answer: str
) -> None:
    prefix = language.prefill(tokens)
    found = attribution.attention_to_video(language, prefix, QUESTION, answer)
    assert found.shape == (len(tokens),)
    assert float(found.sum()) == pytest.approx(1, abs=LOGITS_F32)
    expected = attended_cold(language, tokens, language.prompt_ids(prefix, QUESTION), answer)
    torch.testing.assert_close(found, expected, atol=LOGITS_F32, rtol=0)


def test_attended_does_not_depend_on_how_many_tokens_are_held(
    language: LanguageModel, tokens: VisualTokens, monkeypatch: pytest.MonkeyPatch
) -> None:
    prefix = language.prefill(tokens)
    found = attribution.attention_to_video(
        language, prefix, QUESTION, "A man rides a bike on a dirt track."
    )
    monkeypatch.setattr("vzvideo.models.attribution._CHUNK", 3)
    again = attribution.attention_to_video(
        language, prefix, QUESTION, "A man rides a bike on a dirt track."
    )
    torch.testing.assert_close(found, again, atol=LOGITS_F32, rtol=0)


def test_attended_leaves_all_as_it_was(language: LanguageModel, tokens: VisualTokens) -> None:
    prefix = language.prefill(tokens)
    held, before = prefix.cache.get_seq_length(), language.logits(prefix, QUESTION)
    keys = [layer.keys.clone() for layer in prefix.cache.layers]
    attribution.attention_to_video(language, prefix, "Who is there?", "A man.")
    assert language.model.model.language_model.config._attn_implementation == "sdpa"
    assert (prefix.cache.get_seq_length(), prefix.busy, prefix.asked) == (held, False, 0)
    for layer, expected in zip(prefix.cache.layers, keys, strict=True):
        torch.testing.assert_close(layer.keys, expected, atol=0, rtol=0)
    torch.testing.assert_close(language.logits(prefix, QUESTION), before, atol=0, rtol=0)


def test_attention_is_plain_only_while_it_is_looked_at(
    language: LanguageModel, tokens: VisualTokens
) -> None:
    prefix = language.prefill(tokens)

    def fail(*_: object) -> None:
        raise MemoryError("in the middle")

    hook = language.model.model.language_model.layers[2].register_forward_pre_hook(fail)
    with pytest.raises(MemoryError):
        attribution.attention_to_video(language, prefix, QUESTION, "A man.")
    hook.remove()
    assert language.model.model.language_model.config._attn_implementation == "sdpa"
    assert not prefix.busy


def test_attended_follows_the_answer(language: LanguageModel, tokens: VisualTokens) -> None:
    prefix = language.prefill(tokens)
    one, other = (
        attribution.attention_to_video(language, prefix, QUESTION, said)
        for said in ("A man.", "Two dogs run.")
    )
    assert (one - other).abs().max() > 100 * LOGITS_F32


def test_attended_waits_for_no_answer_in_hand(
    language: LanguageModel, tokens: VisualTokens
) -> None:
    prefix = language.prefill(tokens)
    with closing(language.stream(prefix, "Who?", max_new_tokens=200)) as pieces:
        next(iter(pieces))
        with pytest.raises(ModelError, match="still being generated"):
            attribution.attention_to_video(language, prefix, QUESTION, "A man.")


def test_a_yes_is_as_probable_as_its_first_token(
    language: LanguageModel, tokens: VisualTokens
) -> None:
    prefix = language.prefill(tokens)
    odds = language.yes_no.log_odds(language.logits(prefix, QUESTION))
    assert odds is not None
    for answer in ("Yes.", "no, none"):
        found = language.yes_probability(prefix, QUESTION, answer)
        assert found == pytest.approx(torch.tensor(odds).sigmoid().item())
    assert language.yes_probability(prefix, QUESTION, "Two.") is None
    assert prefix.cache.get_seq_length() == prefix.length  # as it was
