"""What a model is told around a video, as token ids: its own chat form, or the published one.

Knows nothing of the model that reads it.
"""

from __future__ import annotations

from typing import Any, Literal

from transformers import PreTrainedTokenizerBase

from vzvideo.errors import ModelError


def vicuna(visual: str) -> str:
    """Vicuna's form as a chat template; visual: what stands for a picture or a video."""
    return (
        "{% for message in messages %}"
        "{% if message['role'] == 'user' %}USER: {% else %}ASSISTANT: {% endif %}"
        "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
        "{% for part in message['content'] %}"
        "{% if part['type'] == 'text' %}{{ part['text'] }}{% else %}" + visual + "\n{% endif %}"
        "{% endfor %}{% endif %}"
        "{% if message['role'] == 'user' %} {% else %}</s>{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
    )


def mistral(visual: str) -> str:
    """Mistral's form."""
    return (
        "{% for message in messages %}{% if message['role'] == 'user' %}[INST] {% endif %}"
        "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
        "{% for part in message['content'] %}"
        "{% if part['type'] == 'text' %}{{ part['text'] }}{% else %}" + visual + "\n{% endif %}"
        "{% endfor %}{% endif %}"
        "{% if message['role'] == 'user' %} [/INST]{% else %}</s>{% endif %}{% endfor %}"
    )


def chatml(visual: str, system: str = "") -> str:
    """ChatML, as Qwen's models and those that are built on them; system: said first."""
    head = f"<|im_start|>system\n{system}<|im_end|>\n" if system else ""
    return (
        head + "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
        "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
        "{% for part in message['content'] %}"
        "{% if part['type'] == 'text' %}{{ part['text'] }}{% else %}" + visual + "{% endif %}"
        "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )


_MARK = "\u241e"  # stands for an answer while a conversation's text is laid out


class Prompts:
    """Prompts of a model that is asked of a video, or that goes on talking about it."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        video_token: int,
        *,
        template: str | None = None,
        kind: Literal["video", "image"] = "video",
        mark: str | None = None,
        visual: str | None = None,
    ) -> None:
        """
        Args:
            video_token: the id that stands for a visual token.
            template: the chat template; None for the tokenizer's own, or Vicuna's form.
            kind: as what a template is given a video.
            mark: what the template writes for it; None for the text of `video_token`.
            visual: the text that shows a video of one frame; None for the same.
        """
        self._tokenizer: Any = tokenizer
        self.token = str(tokenizer.convert_ids_to_tokens(video_token))
        self._template = template or tokenizer.chat_template or vicuna(self.token)
        self._video_token, self._kind, self._mark = video_token, kind, mark or self.token
        self._visual = visual or self.token

    def opening(self, question: str, visual: str | None = None) -> tuple[list[int], list[int]]:
        """Token ids before and behind the video, in a prompt that asks `question` of it.

        visual: the text that shows the video, with placeholders in it; None for one frame's.
        """
        ids = self._opening(question, visual)
        at = [place for place, token in enumerate(ids) if token == self._video_token]
        return ids[: at[0]], ids[at[-1] + 1 :]

    def up_to_video(self, visual: str) -> list[int]:
        """Token ids from the beginning up to the last placeholder in `visual`."""
        ids = self._opening("?", visual)
        last = max(place for place, token in enumerate(ids) if token == self._video_token)
        return ids[: last + 1]

    def _opening(self, question: str, visual: str | None) -> list[int]:
        message = _message("user", question)
        message["content"].insert(0, {"type": self._kind})
        text = self._text([message])
        if text.count(self._mark) != 1:
            raise ModelError("the model's chat template does not place the video exactly once")
        return self._ids(text.replace(self._mark, visual or self._visual))

    def length(self, question: str, visual: str | None = None) -> int:
        """How many tokens of the window a prompt takes beside the video."""
        before, after = self.opening(question, visual)
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

    def _ids(self, text: str) -> list[int]:
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
