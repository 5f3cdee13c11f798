"""What is said around a video: the published form, or the tokenizer's own."""

from __future__ import annotations

import pytest
from transformers import PreTrainedTokenizerFast

from tests.conftest import small_tokenizer
from vzvideo.errors import ModelError
from vzvideo.models.prompts import Prompts

QUESTION = "What is the man doing?"
# LLaVA-style templates pick the text parts of a message, and drop strings.
PARTS = (
    "{% for message in messages %}{{ message['role'] | upper }}: "
    "{% for part in message['content'] | selectattr('type', 'equalto', 'video') %}<video>\n"
    "{% endfor %}"
    "{% for part in message['content'] | selectattr('type', 'equalto', 'text') %}"
    "{{ part['text'] }} {% endfor %}{% endfor %}ASSISTANT:"
)


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    return small_tokenizer()


def prompts(tokenizer: PreTrainedTokenizerFast, template: str | None = None) -> Prompts:
    tokenizer.chat_template = template
    return Prompts(tokenizer, tokenizer.convert_tokens_to_ids("<video>"))


def test_without_a_template_the_published_prompt(tokenizer: PreTrainedTokenizerFast) -> None:
    made = prompts(tokenizer)
    before, after = made.opening(QUESTION)
    assert tokenizer.decode(before) == "USER: "
    assert tokenizer.decode(after) == f"\n{QUESTION} ASSISTANT:"
    assert tokenizer.decode(made.following(QUESTION)) == f"</s>USER: {QUESTION} ASSISTANT:"
    assert made.length(QUESTION) == len(before) + len(after)


def test_templates_that_want_parts_hold_a_conversation(tokenizer: PreTrainedTokenizerFast) -> None:
    made = prompts(tokenizer, PARTS)
    before, after = made.opening(QUESTION)
    assert tokenizer.decode([*before, *after]) == f"USER: \n{QUESTION} ASSISTANT:"
    assert tokenizer.decode(made.following(QUESTION)) == f" USER: {QUESTION} ASSISTANT:"


def test_what_a_template_writes_at_its_beginning_is_not_written_twice(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    before, _ = prompts(tokenizer, "<s>" + PARTS).opening(QUESTION)
    assert before.count(tokenizer.bos_token_id) == 1
    assert before[0] == tokenizer.bos_token_id


@pytest.mark.parametrize("template", ["no video", "<video><video>"], ids=["none", "two"])
def test_a_template_that_does_not_place_the_video_once_is_refused(
    tokenizer: PreTrainedTokenizerFast, template: str
) -> None:
    with pytest.raises(ModelError, match="exactly once"):
        prompts(tokenizer, template).opening(QUESTION)


def test_a_template_that_forgets_answers_is_refused(tokenizer: PreTrainedTokenizerFast) -> None:
    made = prompts(tokenizer, "{% for m in messages if m['role'] == 'user' %}<video>{% endfor %}")
    with pytest.raises(ModelError, match="leaves out"):
        made.following(QUESTION)


@pytest.mark.parametrize("word", ["<video>", "</s>", "<s>"])
def test_control_words_in_a_question_are_refused(
    tokenizer: PreTrainedTokenizerFast, word: str
) -> None:
    made = prompts(tokenizer)
    for ask in (made.opening, made.following, made.length):
        with pytest.raises(ModelError, match="control words") as caught:
            ask(f"What is {word}?")
        assert caught.value.code == "question"
