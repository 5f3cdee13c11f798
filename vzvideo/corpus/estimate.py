"""What a corpus job would take, told before anything is decoded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from vzvideo.config import Settings
from vzvideo.corpus.manifest import Task
from vzvideo.errors import VzVideoError
from vzvideo.video import sampling
from vzvideo.video.guarded import Guard, GuardedDecoder
from vzvideo.words import format_duration, pluralize

if TYPE_CHECKING:
    from vzvideo.qa.video_qa import VideoQA

_AT_ONCE = 8  # headers are waited for more than worked on
_SUSTAINED = 100e12  # operations a second that a data-centre GPU keeps up, for the hours named


@dataclass
class Estimate:
    """What would be read, made and computed; of videos that cannot be read, nothing.

    hours: the lengths of all parts together. frames: looked at.
    tokens, tokens_before: of the frames, after VisionZip and without it.
    prompt: tokens of the questions' texts. answers: tokens at most.
    operations: floating-point ones of tower and language model.
    unreadable: videos, or parts, by reason.
    seconds: on this machine, models loaded, by a trial; None where there was none, and `untold`
    says why.
    """

    videos: int = 0
    questions: int = 0
    hours: float = 0.0
    frames: int = 0
    tokens_before: int = 0
    tokens: int = 0
    prompt: int = 0
    answers: int = 0
    operations: float = 0.0
    unreadable: Counter[str] = field(default_factory=Counter)
    seconds: float | None = None
    untold: str = ""

    def __str__(self) -> str:
        lines = [
            f"{pluralize(self.videos, 'video')}, {format_duration(3600 * self.hours)} together",
            f"{pluralize(self.frames, 'frame')}, {self.tokens_before} tokens -> {self.tokens}",
        ]
        if self.questions:
            lines.append(
                f"{pluralize(self.questions, 'question')}: {self.tokens + self.prompt} tokens for "
                f"the language model to read, at most {self.answers} to write"
            )
        lines.append(
            f"about {self.operations / 1e15:.3g} PFLOP, "
            f"{format_duration(self.operations / _SUSTAINED)} of a GPU that does "
            f"{_SUSTAINED / 1e12:.0f} TFLOP/s; decoding apart"
        )
        if self.seconds is not None:
            lines.append(
                f"about {format_duration(self.seconds)} on this machine, by a trial of one video; "
                "loading models apart"
            )
        else:
            lines.append(f"how long this machine takes cannot be told: {self.untold}")
        if self.unreadable:
            why = ", ".join(f"{code} {count}" for code, count in self.unreadable.most_common())
            lines.append(f"{pluralize(self.unreadable.total(), 'video')} cannot be read ({why})")
        return "\n".join(lines)


def estimate(
    tasks: Sequence[Task], settings: Settings, guard: Guard, *, say: Callable[[str], None]
) -> Estimate:
    """Opens every video for its header, and adds up what asking it would take. One is tried."""
    from vzvideo.corpus import planning
    from vzvideo.qa import loading

    planner = loading.load(settings=settings.replace(cache=False), say=say, part="outline")
    tasks = planning.with_default_clip(tasks, settings)
    found = Estimate(videos=len({task.video for task in tasks}))
    decoders: list[GuardedDecoder] = [GuardedDecoder(guard) for _ in range(_AT_ONCE)]

    def durations(part: int) -> list[float | str]:
        made: list[float | str] = []
        for task in tasks[part::_AT_ONCE]:
            try:
                made.append(decoders[part].describe(task.video, settings).duration_s)
            except VzVideoError as error:
                made.append(error.code)
        return made

    try:
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            parts = list(pool.map(durations, range(_AT_ONCE)))
    finally:
        for decoder in decoders:
            decoder.close()
    readable: list[Task] = []
    for number, task in enumerate(tasks):
        duration_s = parts[number % _AT_ONCE][number // _AT_ONCE]
        found.questions += len(task.asked)
        if isinstance(duration_s, str):
            found.unreadable[duration_s] += 1
            continue
        try:
            _add(found, planner, task, duration_s)
            readable.append(task)
        except VzVideoError as error:
            found.unreadable[error.code] += 1
    _time(found, planner, readable, guard, say)
    return found


def _time(
    found: Estimate, planner: VideoQA, tasks: list[Task], guard: Guard, say: Callable[[str], None]
) -> None:
    """How long it would take here, by trying the first."""
    from vzvideo.corpus.trial import trial

    if not tasks:
        found.untold = "no video can be read"
        return
    questions = sum(len(task.asked) for task in tasks)
    say(f"trying {tasks[0].video} on this machine")
    try:
        tried = trial(planner, tasks[0], guard)
    except (VzVideoError, RuntimeError, MemoryError) as error:  # PyTorch's, where memory is short
        found.untold = " ".join(str(error).split())[:300]
        return
    found.seconds = tried.seconds(found.videos, found.frames, found.tokens, questions)


def _add(found: Estimate, planner: VideoQA, task: Task, duration_s: float) -> None:
    recipe = planner.recipe(start_s=task.start_s, end_s=task.end_s)
    start_s, end_s = sampling.clip(duration_s, task.start_s, task.end_s)
    frames = recipe.frames
    if recipe.settings.sampling == "fps":
        frames = min(frames, len(sampling.fps(start_s, end_s, recipe.settings.fps)))
    each = recipe.compression.tokens_per_frame(planner.encoder.tokens)
    groups = -(-frames // planner.encoder.family.frames_per_group)
    tower, language = _weights(planner.encoder.tower), _weights(planner.language.decoder)
    texts = [planner.language.prompts.length(question.strip() or "?") for _, question in task.asked]
    answers = len(texts) * recipe.settings.max_new_tokens
    found.hours += (end_s - start_s) / 3600
    found.frames += frames
    found.tokens_before += groups * planner.encoder.tokens
    found.tokens += groups * each
    found.prompt += sum(texts)
    found.answers += answers
    # Two operations a weight and token; attention adds little at these lengths.
    found.operations += 2 * tower * groups * planner.encoder.tokens
    asked = (sum(texts) + answers) * recipe.settings.num_beams  # each beam reads and says its own
    found.operations += 2 * language * (groups * each + asked) * bool(texts)


def _weights(module: Any) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
