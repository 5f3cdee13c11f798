"""From a context window to frames x tokens per frame: planned before anything is computed."""

from __future__ import annotations

from dataclasses import dataclass

from vzvideo.errors import BudgetError

# The paper keeps 54 + 10 of 64 tokens (and 108 + 20, 162 + 30): five parts dominant, one merged.
_DOMINANT_SHARE, CONTEXTUAL_SHARE = 54 / 64, 10 / 64


def split_tokens(tokens_per_frame: int) -> tuple[int, int]:
    """Tokens per frame -> (dominant, contextual) in the paper's proportion: 64 -> (54, 10)."""
    if tokens_per_frame < 1:
        raise BudgetError(
            f"tokens per frame: {tokens_per_frame} given, at least 1 is needed (17 is usual)"
        )
    dominant = round(tokens_per_frame * _DOMINANT_SHARE)
    return dominant, tokens_per_frame - dominant


@dataclass(frozen=True)
class Budget:
    """How one question's window is shared out; all figures are tokens but `frames`, and
    `frames_at_once`, as many as become one frame's tokens."""

    window: int
    frames: int
    tokens_per_frame: int
    text: int
    answer: int
    frames_at_once: int = 1

    @property
    def video(self) -> int:
        return -(-self.frames // self.frames_at_once) * self.tokens_per_frame

    @property
    def free(self) -> int:
        return self.window - self.video - self.text - self.answer

    def __str__(self) -> str:
        at_once = "" if self.frames_at_once == 1 else f", {self.frames_at_once} at once,"
        return (
            f"window {self.window} = {self.frames} frames{at_once} x {self.tokens_per_frame} "
            f"({self.video}) + text {self.text} + answer {self.answer} + free {self.free}"
        )


def plan(
    window: int,
    *,
    text: int,
    answer: int,
    frames: int | None,
    tokens_per_frame: int,
    most_frames: int | None = None,
    frames_at_once: int = 1,
) -> Budget:
    """Fits a video into a window, or raises BudgetError naming what would fit.

    Args:
        window: tokens the language model can attend to.
        text: tokens of the prompt around the video and of the question.
        answer: tokens kept free for the answer.
        frames: frames wanted, or None for as many as fit, `most_frames` at most.
        tokens_per_frame: tokens each frame will take, text that comes with it counted.
        frames_at_once: frames that a model looks at together, and that take these tokens together.
    """
    for name, count in (
        ("frames", frames),
        ("tokens per frame", tokens_per_frame),
        ("most frames", most_frames),
    ):
        if count is not None and count < 1:
            raise BudgetError(f"{name}: {count} given, at least 1 is needed")
    room = window - text - answer
    fit = max(0, room) // tokens_per_frame * frames_at_once
    wanted = min(fit, most_frames or fit) if frames is None else frames
    budget = Budget(window, wanted, tokens_per_frame, text, answer, frames_at_once)
    if wanted < 1 or wanted > fit:
        raise BudgetError(_what_would_fit(budget, fit, room))
    return budget


def _what_would_fit(budget: Budget, fit: int, room: int) -> str:
    asked, each = max(1, budget.frames), budget.tokens_per_frame
    offers = []
    if fit >= 1:
        offers.append(f"{fit} frames at {each} tokens each")
    if 1 <= room // asked < each:
        offers.append(f"{asked} frames at {room // asked} tokens each")
    if not offers:
        offers.append(f"1 frame at {each} tokens with {each - room} tokens less of text and answer")
    return (
        f"{asked} frames x {each} tokens + {budget.text} of text + "
        f"{budget.answer} for the answer exceed the model's window of {budget.window}; "
        f"what would fit: {' or '.join(offers)}"
    )
