"""What a model is told around a video, as token ids: its own chat form, or the published one.

Knows nothing of the model that reads it.
"""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedTokenizerBase

from vzvideo.errors import ModelError

# The published prompt, for checkpoints whose tokenizer brings no chat template.
VICUNA_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}USER: {% else %}ASSISTANT: {% endif %}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'video' %}<video>\n{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}"
    "{% if message['role'] == 'user' %} {% else %}</s>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
_MARK = "\u241e"  # stands for an answer while a conversation's text is laid out


class Prompts:
    """Prompts of a model that is asked of a video, or that goes on talking about it."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, video_token: int) -> None:
        """video_token: the id that stands for a visual token."""
        self._tokenizer: Any = tokenizer
        self._template = tokenizer.chat_template or VICUNA_TEMPLATE
        self._video_token = video_token

    def opening(self, question: str) -> tuple[list[int], list[int]]:
        """Token ids before and after the video, in a prompt that asks `question` of it."""
        message = _message("user", question)
        message["content"].insert(0, {"type": "video"})
        ids = self._ids([message])
        if ids.count(self._video_token) != 1:
            raise ModelError("the model's chat template does not place the video exactly once")
        place = ids.index(self._video_token)
        return ids[:place], ids[place + 1 :]

    def length(self, question: str) -> int:
        """How many tokens of the window a prompt takes beside the video."""
        before, after = self.opening(question)
        return len(before) + len(after)

    def following(self, question: str) -> list[int]:
        """Token ids that end an answer and ask the next question of a conversation."""
        text = self._text(
            [_message("user", "."), _message("assistant", _MARK), _message("user", question)]
        )
        if _MARK not in text:
            raise ModelError("the model's chat template leaves out what was answered before")
        rest = text.partition(_MARK)[2]
        ids: list[int] = self._tokenizer(rest, add_special_tokens=False).input_ids
        return ids

    def _ids(self, messages: list[dict[str, Any]]) -> list[int]:
        text = self._text(messages)
        # Some templates write the beginning-of-text token themselves.
        begun = text.startswith(self._tokenizer.bos_token or "\0")
        ids: list[int] = self._tokenizer(text, add_special_tokens=not begun).input_ids
        return ids

    def _text(self, messages: list[dict[str, Any]]) -> str:
        for message in messages:
            parts = [part.get("text", "") for part in message["content"]]
            if any(word in part for part in parts for word in self._tokenizer.all_special_tokens):
                raise ModelError(
                    "the question contains one of the model's control words "
                    f"({', '.join(self._tokenizer.all_special_tokens)}): leave it out",
                    code="question",
                )
        text: str = self._tokenizer.apply_chat_template(
            messages, chat_template=self._template, tokenize=False, add_generation_prompt=True
        )
        return text


def _message(role: str, text: str) -> dict[str, Any]:
    """A message in the form that every published template takes."""
    return {"role": role, "content": [{"type": "text", "text": text}]}
