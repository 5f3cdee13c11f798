"""Live video on a small random model: frames in at any pace, questions at any moment."""

from __future__ import annotations

import asyncio
import gc
import itertools
import math
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import vzvideo
from tests.conftest import small_model, write_checkpoint
from tests.live.streams import CLOSED_S, EACH, OTHER, QUESTION, frame, push, small_qa
from tests.tolerances import LOGITS_F32, PTS_S
from tests.waiting import SLACK_S, outcome, until
from vzvideo.errors import SettingsError, TokenFileError, VideoError, VzVideoError
from vzvideo.live.stream import Stream
from vzvideo.qa.video_qa import VideoQA
from vzvideo.types import FrameBatch, VisualTokens
from vzvideo.visionzip.memory import Memory, Moment

pytestmark = pytest.mark.usefixtures("no_thread_stays")


@pytest.fixture(scope="module")
def qa(checkpoint: Path) -> VideoQA:
    return small_qa(checkpoint)


class Door:
    """Stands before the encoder: while it is shut, nothing is encoded."""

    def __init__(self, qa: VideoQA) -> None:
        self._encode = qa.encoder.encode
        self.open, self.wait_until = threading.Event(), threading.Event()
        self.error: BaseException | None = None

    def __call__(self, frames: FrameBatch, *arguments: Any, **options: Any) -> VisualTokens:
        self.wait_until.set()
        assert self.open.wait(SLACK_S)
        if self.error is not None:
            raise self.error
        return self._encode(frames, *arguments, **options)


@pytest.fixture
def door(qa: VideoQA, monkeypatch: pytest.MonkeyPatch) -> Iterator[Door]:
    door = Door(qa)
    monkeypatch.setattr(qa.encoder, "encode", door)
    yield door
    door.open.set()


def assert_same(one: Memory, other: Memory) -> None:
    """To the last bit."""
    assert len(one.moments) == len(other.moments)
    for a, b in zip(one.moments, other.moments, strict=True):
        assert (a.start_s, a.end_s) == (b.start_s, b.end_s)
        for name in Moment.TENSORS:
            mine, its = getattr(a, name), getattr(b, name)
            assert mine.dtype == its.dtype
            assert torch.equal(mine, its), name


def assert_adds_up(stream: Stream) -> None:
    stats = stream.stats
    assert stats.frames_in == stats.skipped + stats.encoded + stats.dropped + stats.waiting


# -- asking


def test_an_answer_is_that_to_what_is_remembered(qa: VideoQA) -> None:
    with qa.stream(budget=40) as stream:
        push(stream, range(30))
        for window in ({}, {"since_s": -6.0}, {"since_s": 5.0, "until_s": 20.0}):
            answer = stream.ask(QUESTION, **window)
            tokens = stream.tokens(**window)
            expected = qa.ask(tokens, QUESTION)
            assert answer.text == expected.text
            assert answer.text
            assert answer.tokens == len(tokens) == expected.tokens
            assert answer.frame_times_s == pytest.approx(tokens.pts_s.tolist(), abs=PTS_S)
            assert (answer.question, answer.model) == (QUESTION, qa.name)
            assert list(answer.seconds) == ["prefill", "generate"]


def test_a_stream_that_fits_is_answered_as_the_file_is(qa: VideoQA, clip: Path) -> None:
    with qa.stream(fps=5.0, tolerance=0.0) as stream:
        stream.attach(clip)
        assert stream.wait(SLACK_S)
        streamed, encoded = stream.tokens(), qa.encode(clip, sampling="fps", fps=5.0)
        np.testing.assert_allclose(streamed.pts_s, encoded.pts_s, rtol=0, atol=PTS_S)
        assert streamed.features.shape == encoded.features.shape
        answer = stream.ask(QUESTION)
        assert answer.source == str(clip)
        assert answer.text == qa.ask(encoded, QUESTION).text


@pytest.mark.parametrize(
    ("window", "expected"),
    [
        ({}, range(10)),
        ({"since_s": 3.0}, range(3, 10)),
        ({"until_s": 3.0}, range(4)),
        ({"since_s": 3.0, "until_s": 6.5}, range(3, 7)),
        ({"since_s": -2.0}, range(7, 10)),
        ({"until_s": -2.0}, range(8)),
        ({"since_s": -5.0, "until_s": -2.0}, range(4, 8)),
        ({"since_s": 3.0, "until_s": -2.0}, range(3, 8)),
        ({"since_s": -1000.0}, range(10)),
        ({"since_s": -math.inf, "until_s": math.inf}, range(10)),
        ({"since_s": 3.2, "until_s": 3.8}, [3]),  # what was to be seen then
    ],
)
def test_a_window_is_what_is_looked_at(
    qa: VideoQA, window: dict[str, float], expected: range | list[int]
) -> None:
    with qa.stream(budget=100) as stream:
        push(stream, range(10))
        assert stream.ask(QUESTION, **window).frame_times_s == list(map(float, expected))


def test_a_window_over_what_was_skipped_finds_the_frame(qa: VideoQA) -> None:
    with qa.stream() as stream:
        push(stream, [1, 2, 2, 2, 2, 2, 2, 3])
        assert stream.stats.skipped == 5
        assert stream.stats.covered_s == 7.0
        answer = stream.ask(QUESTION, since_s=4.0, until_s=5.0)
        assert answer.frame_times_s == [1.0]
        assert answer.text == stream.ask(QUESTION, since_s=1.0, until_s=1.5).text


@pytest.mark.parametrize(
    "window",
    [
        {"since_s": 10.5},
        {"since_s": 11.0, "until_s": 12.0},
        {"since_s": 99.0, "until_s": 100.0},
        {"until_s": 4.0},
        {"until_s": -1000.0},
        {"since_s": 8.0, "until_s": 6.0},
        {"since_s": -1.0, "until_s": -3.0},
    ],
)
def test_a_window_with_nothing_in_it_is_refused(qa: VideoQA, window: dict[str, float]) -> None:
    with qa.stream() as stream:
        push(stream, range(6), first_s=5.0)
        with pytest.raises(VideoError, match=r"from 5\.0 to 10\.0 s") as error:
            stream.ask(QUESTION, **window)
        assert error.value.code == "clip"
        assert stream.ask(QUESTION).text


def test_a_window_that_is_no_time_is_refused(qa: VideoQA) -> None:
    with qa.stream() as stream:
        push(stream, [1])
        for window in ({"since_s": math.nan}, {"until_s": math.nan}):
            with pytest.raises(SettingsError, match="seconds"):
                stream.ask(QUESTION, **window)


@pytest.mark.parametrize("question", ["", "  \n", "Who\udcff?", None, "What is <video>?"])
def test_what_is_no_question_is_refused(qa: VideoQA, question: Any) -> None:
    with qa.stream() as stream:
        push(stream, [1])
        with pytest.raises(VzVideoError) as error:
            stream.ask(question)
        assert "\n" not in str(error.value)
        assert stream.ask(QUESTION).text


def test_an_empty_question_is_refused_before_its_time_has_come(qa: VideoQA) -> None:
    with qa.stream() as stream, pytest.raises(SettingsError, match="empty"):
        stream.every(5.0, " ")


def test_before_anything_has_been_seen_there_is_no_answer(qa: VideoQA, tmp_path: Path) -> None:
    with qa.stream() as stream:
        for call in (
            lambda: stream.ask(QUESTION),
            lambda: stream.start(QUESTION),
            lambda: stream.tokens(since_s=-5),
            lambda: stream.save(tmp_path / "kept"),
        ):
            with pytest.raises(VideoError, match="nothing has been seen yet"):
                call()
    with pytest.raises(VideoError, match="nothing has been seen"):
        stream.ask(QUESTION)


def test_the_first_frame_is_waited_for(qa: VideoQA, door: Door) -> None:
    with qa.stream() as stream:
        stream.push(frame(1), 0.0)
        threading.Timer(0.1, door.open.set).start()
        assert stream.ask(QUESTION).frame_times_s == [0.0]


def test_frames_that_wait_are_not_seen(qa: VideoQA, door: Door) -> None:
    door.open.set()
    with qa.stream() as stream:
        push(stream, range(3))
        door.open.clear()
        stream.push(frame(7), 3.0)
        assert stream.ask(QUESTION).frame_times_s == [0.0, 1.0, 2.0]
        door.open.set()
        assert stream.wait(SLACK_S)
        assert stream.ask(QUESTION).frame_times_s == [0.0, 1.0, 2.0, 3.0]


def test_a_closed_stream_can_be_asked_and_takes_nothing(qa: VideoQA, clip: Path) -> None:
    with qa.stream() as stream:
        push(stream, range(3))
        text = stream.ask(QUESTION).text
    assert stream.ended
    assert stream.ask(QUESTION).text == text
    assert stream.wait(0)
    for call in (lambda: stream.push(frame(9), 9.0), lambda: stream.attach(clip)):
        with pytest.raises(SettingsError, match="closed"):
            call()
    assert stream.stats.frames_in == 3


def test_pieces_add_up_and_an_answer_may_be_left(qa: VideoQA) -> None:
    with qa.stream(max_new_tokens=60, budget=100) as stream:
        push(stream, range(207, 210))  # to which this model has several words
        expected = stream.ask(QUESTION)
        asking = stream.start(QUESTION)
        pieces = list(asking)
        assert len(pieces) > 1
        assert "".join(pieces).strip() == asking.result.text == expected.text
        threads = threading.active_count()
        left = iter(stream.start(QUESTION))
        next(left)
        assert stream.ask(OTHER).text == stream.ask(OTHER).text  # while one is half way
        left.close()  # type: ignore[attr-defined]
        assert threading.active_count() == threads
        assert stream.ask(QUESTION).text == expected.text


def test_settings_of_a_question(qa: VideoQA) -> None:
    with qa.stream(budget=100) as stream:
        push(stream, range(6))
        long, short = stream.ask(QUESTION, max_new_tokens=30), stream.ask(QUESTION)
        assert len(long.text) > len(short.text)
        assert long.text.startswith(short.text.rstrip("\ufffd"))
        assert stream.ask(QUESTION, temperature=2.0).text
        assert stream.ask(QUESTION, max_new_tokens=30, num_beams=8).text != long.text
        for wrong in ({"fps": 2.0}, {"max_tokens": 3}, {"max_new_tokens": 0}, {"temperature": "x"}):
            with pytest.raises(SettingsError, match=next(iter(wrong))):
                stream.ask(QUESTION, **wrong)


def test_several_ask_at_once_and_each_gets_what_it_gets_alone(qa: VideoQA) -> None:
    with qa.stream(budget=60) as stream:
        push(stream, range(20))
        windows = [{}, {"since_s": -5.0}, {"until_s": 10.0}]
        asked = [*itertools.product((QUESTION, OTHER), windows)] * 2
        alone = [stream.ask(question, **window).text for question, window in asked]
        stream.forget()
        texts: list[Any] = [None] * len(asked)

        def ask(number: int) -> None:
            question, window = asked[number]
            texts[number] = outcome(lambda: stream.ask(question, **window).text)

        threads = [threading.Thread(target=ask, args=(n,)) for n in range(len(asked))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(SLACK_S)
        assert texts == alone


def test_asking_does_not_hold_up_what_comes_in(qa: VideoQA) -> None:
    with qa.stream(max_new_tokens=30, queue=1, budget=200) as stream:
        push(stream, range(4))
        expected = stream.ask(QUESTION).text
        asking = stream.start(QUESTION)
        pieces = [next(iterator := iter(asking))]
        push(stream, range(10, 20), first_s=4.0)  # more than there is room for to wait
        assert stream.stats.encoded == 14
        pieces += iterator
        assert "".join(pieces).strip() == expected
        assert asking.result.frame_times_s == [0.0, 1.0, 2.0, 3.0]


def test_frames_come_and_questions_too(qa: VideoQA) -> None:
    with qa.stream(budget=50, queue=4) as stream:
        stream.push(frame(9), 0.0)
        over, random = threading.Event(), np.random.default_rng(0)

        def bring() -> None:
            for at in range(10**6):
                if over.is_set():
                    return
                stream.push(frame(int(random.integers(6))), at / 2)

        thread = threading.Thread(target=bring)
        thread.start()
        try:
            latest = -1.0
            for _ in range(8):
                answer = stream.ask(QUESTION, since_s=-20.0)
                assert answer.tokens <= 50
                assert answer.frame_times_s == sorted(answer.frame_times_s)
                assert answer.frame_times_s[-1] >= latest
                latest = answer.frame_times_s[-1]
                assert_adds_up(stream)
        finally:
            over.set()
            thread.join(SLACK_S)
        assert latest > 0


# -- what was read


@pytest.fixture
def reads(qa: VideoQA) -> Iterator[list[int]]:
    """How many tokens of each video the language model read anew."""
    projected: list[int] = []

    def note(_module: object, inputs: tuple[torch.Tensor, ...]) -> None:
        projected.append(inputs[0].shape[-2])

    projector = qa.language.model.model.multi_modal_projector
    handle = projector.register_forward_pre_hook(note)
    yield projected
    handle.remove()


def test_an_unchanged_memory_is_read_once(qa: VideoQA, reads: list[int]) -> None:
    with qa.stream() as stream:
        push(stream, range(4))
        first, again = stream.ask(QUESTION).text, stream.ask(QUESTION).text
        stream.ask(OTHER)
        assert reads == [4 * EACH]
        assert again == first
        stream.push(frame(3), 9.0)  # nothing new
        stream.ask(QUESTION)
        assert reads == [4 * EACH]
        for _ in range(2):
            stream.ask(QUESTION, since_s=-6.5)
            stream.ask(QUESTION)
        assert reads == [4 * EACH, EACH]
        stream.forget()
        assert stream.ask(QUESTION).text == first
        assert reads == [4 * EACH, EACH, 4 * EACH]


def test_only_what_is_new_is_read(qa: VideoQA, reads: list[int]) -> None:
    with qa.stream() as stream:
        push(stream, range(4))
        stream.ask(QUESTION)
        push(stream, [9, 10], first_s=4.0)
        stream.ask(QUESTION)
        assert reads == [4 * EACH, 2 * EACH]
        stream.ask(QUESTION, until_s=2.0)
        stream.ask(QUESTION, until_s=3.0)
        assert reads[2:] == [3 * EACH, EACH]
        stream.ask(QUESTION, until_s=1.0)  # all of it is known, and the last is read again
        assert reads[4:] == [1]


def test_what_was_read_before_gives_the_same_scores(qa: VideoQA) -> None:
    with qa.stream(budget=60) as stream:
        known = None
        for start in range(0, 40, 4):
            push(stream, range(start, start + 4), first_s=float(start))
            tokens = stream.tokens()
            prefix = qa.language.prefill(tokens, known)
            before = known and qa.language.logits(known[1], QUESTION)
            fresh = qa.language.logits(qa.language.prefill(tokens), QUESTION)
            scores = qa.language.logits(prefix, QUESTION)
            torch.testing.assert_close(scores, fresh, rtol=0, atol=LOGITS_F32)
            assert stream.ask(QUESTION).text == qa.ask(tokens, QUESTION).text
            if known is not None:  # which stays as it was
                assert torch.equal(qa.language.logits(known[1], QUESTION), before)
            known = (tokens, prefix)


# -- the budget


@settings(deadline=None, max_examples=20)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 255),
            st.sampled_from([(64, 48), (48, 64), (200, 150), (1, 1), (9, 300)]),
            st.sampled_from([0.0, 0.04, 1.0, 1000.0]),
        ),
        min_size=1,
        max_size=24,
    ),
    st.integers(EACH, 40),
)
def test_tokens_are_never_over_the_budget(
    qa: VideoQA, pushed: list[tuple[int, tuple[int, int], float]], budget: int
) -> None:
    with qa.stream(budget=budget, queue=3) as stream:
        at_s = 0.0
        for number, size, step_s in pushed:
            at_s += step_s
            stream.push(frame(number, *size), at_s)
            assert stream.stats.tokens <= budget
        assert stream.wait(SLACK_S)
        tokens = stream.tokens()
        assert 1 <= len(tokens) <= budget
        assert len(tokens) == stream.stats.tokens == stream.memory.tokens
        assert (np.diff(tokens.pts_s) > 0).all()
        assert stream.memory.end_s == at_s
        assert stream.stats.dropped == 0


def test_a_full_memory_can_still_be_asked(qa: VideoQA) -> None:
    """Whatever the answer's length, room for a question remains."""
    question = "What is the man in the red shirt doing with the two dogs on the meadow?"
    for most in (1, 6, 128):
        with qa.stream(max_new_tokens=most) as stream:
            for at in range(120):
                stream.push(frame(at), float(at))
            assert stream.wait(SLACK_S)
            assert stream.stats.tokens > 200
            answer = stream.ask(question)
            assert answer.tokens == stream.stats.tokens


@pytest.mark.parametrize("budget", [0, -1, EACH - 1, 512, 10**9])
def test_a_budget_that_cannot_be_is_refused(qa: VideoQA, budget: int) -> None:
    threads = threading.active_count()
    with pytest.raises(SettingsError, match=f"budget: {budget} given; a frame takes {EACH} ") as e:
        qa.stream(budget=budget)
    room = int(str(e.value).split("room for ")[1])
    with qa.stream(budget=room):
        pass
    with pytest.raises(SettingsError, match="budget"):
        qa.stream(budget=room + 1)
    with qa.stream(budget=EACH) as stream:
        push(stream, range(5))
        assert 1 <= stream.stats.tokens <= EACH
    assert threading.active_count() == threads


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"queue": 0}, "queue"),
        ({"policy": "drop"}, "drop_oldest"),
        ({"tolerance": 2.0}, "tolerance"),
        ({"frames": 8}, "not for a stream"),
        ({"sampling": "scenes"}, "not for a stream"),
        ({"start_s": 1.0}, "start_s: not for a stream"),
        ({"end_s": 1.0, "decoder": "pyav"}, "decoder, end_s"),
        ({"frame": 8}, "unknown setting"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"tokens_per_frame": 99}, "tokens_per_frame"),
        ({"dominant": 3}, "both or neither"),
        ({"fps": "often"}, "fps"),
        ({"restore": "nowhere"}, "no such file"),
    ],
)
def test_wrong_settings_are_refused(qa: VideoQA, wrong: dict[str, Any], told: str) -> None:
    with pytest.raises(VzVideoError, match=told) as error:
        qa.stream(**wrong)
    assert "\n" not in str(error.value)


# -- sources


def test_a_file_is_watched(qa: VideoQA, clip: Path) -> None:
    with qa.stream(fps=5.0) as stream:
        stream.attach(clip)
        assert stream.wait(SLACK_S)
        assert stream.stats.frames_in == 8
        assert_adds_up(stream)
        with pytest.raises(SettingsError, match="go back"):
            stream.push(frame(1), 0.5)
        end_s = stream.memory.end_s
        stream.attach(clip, fps=25.0)
        assert stream.wait(SLACK_S)
        assert stream.memory.end_s > end_s + 1.5
        assert stream.stats.frames_in == 48
        push(stream, [1], first_s=100.0)
        assert stream.stats.covered_s == 100.0


def test_a_second_source_is_refused_while_one_is_read(qa: VideoQA, clip: Path, door: Door) -> None:
    with qa.stream(queue=1, fps=25.0) as stream:
        stream.attach(clip)
        with pytest.raises(SettingsError, match="one source at a time"):
            stream.attach(clip)
        door.open.set()
        assert stream.wait(SLACK_S)
        stream.attach(clip)
        assert stream.wait(SLACK_S)
        assert stream.stats.encoded == 80


@pytest.mark.parametrize(
    ("options", "told"), [({"fps": 0.0}, "fps"), ({"speed": -1.0}, "speed"), ({"fps": -1}, "fps")]
)
def test_a_wrong_way_to_read_is_refused(
    qa: VideoQA, clip: Path, options: dict[str, float], told: str
) -> None:
    with qa.stream() as stream:
        with pytest.raises(SettingsError, match=told):
            stream.attach(clip, **options)
        stream.attach(clip)
        assert stream.wait(SLACK_S)


def test_a_missing_file_is_told_at_once(qa: VideoQA, clip: Path, tmp_path: Path) -> None:
    with qa.stream() as stream:
        for wrong, code in ((tmp_path / "none.mp4", "not_found"), (tmp_path, "folder")):
            with pytest.raises(VideoError) as error:
                stream.attach(wrong)
            assert error.value.code == code
        stream.attach(clip)
        assert stream.wait(SLACK_S)
        assert stream.ask(QUESTION).source == str(clip)


def test_a_broken_file_is_told_once_and_asking_goes_on(qa: VideoQA, tmp_path: Path) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"once upon a time " * 99)
    with qa.stream() as stream:
        push(stream, range(3))
        stream.attach(broken)
        with pytest.raises(VideoError, match=r"broken\.mp4: not a video") as error:
            stream.wait(SLACK_S)
        assert error.value.code == "invalid"
        assert stream.ask(QUESTION).text
        push(stream, [7], first_s=9.0)


def test_a_broken_file_that_nobody_heard_of_is_told_at_the_end(qa: VideoQA, tmp_path: Path) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"once upon a time " * 99)
    stream = qa.stream()

    def watch() -> None:
        with stream:
            stream.attach(broken)
            until(lambda: "vzvideo source" not in [t.name for t in threading.enumerate()])

    with pytest.raises(VideoError, match=r"broken\.mp4"):
        watch()
    assert stream.ended


@pytest.mark.parametrize("error", [MemoryError("no room"), RuntimeError("CUDA is gone")])
def test_an_error_of_the_encoder_reaches_everybody(
    qa: VideoQA, door: Door, error: Exception
) -> None:
    door.error = error
    door.open.set()
    stream = qa.stream()

    def watch() -> None:
        with stream:
            stream.push(frame(1), 0.0)
            for call in (
                lambda: stream.ask(QUESTION),
                lambda: stream.wait(SLACK_S),
                lambda: stream.push(frame(2), 1.0),
                lambda: list(stream.every(1.0, QUESTION)),
            ):
                told = outcome(call)
                assert error in (told, told.__cause__)

    watch()
    assert stream.stats.dropped == 1
    assert stream.ended


def test_an_error_of_the_last_frame_is_told_at_the_end(qa: VideoQA, door: Door) -> None:
    door.error = RuntimeError("CUDA is gone")
    stream = qa.stream()

    def watch() -> None:
        with stream:
            stream.push(frame(1), 0.0)
            assert door.wait_until.wait(SLACK_S)
            threading.Timer(0.1, door.open.set).start()

    with pytest.raises(RuntimeError, match="gone"):
        watch()


def test_an_error_of_whoever_uses_it_is_not_replaced(qa: VideoQA, door: Door) -> None:
    door.error = RuntimeError("CUDA is gone")
    door.open.set()
    stream = qa.stream()

    def watch() -> None:
        with stream:
            stream.push(frame(1), 0.0)
            until(lambda: stream.stats.dropped == 1)
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        watch()
    assert stream.ended


@pytest.fixture
def silent() -> Iterator[str]:
    """A camera that takes calls and says nothing."""
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        yield f"tcp://127.0.0.1:{server.getsockname()[1]}"


def test_closing_does_not_wait_for_a_silent_source(qa: VideoQA, silent: str) -> None:
    with qa.stream(deadline_s=1.5) as stream:
        stream.attach(silent)
        assert not stream.wait(0.2)
        began = time.monotonic()
        stream.close()
        assert time.monotonic() - began < CLOSED_S
        until(lambda: stream.ended, 10.0)
        with pytest.raises(VideoError, match="nothing has been seen"):
            stream.ask(QUESTION)


def test_a_silent_source_is_told_at_its_deadline(qa: VideoQA, silent: str) -> None:
    with qa.stream(deadline_s=0.3) as stream:
        stream.attach(silent)
        error = outcome(lambda: stream.ask(QUESTION))
        assert isinstance(error, VideoError), error
        assert error.code == "deadline"


def test_closing_ends_what_plays_in_real_time(qa: VideoQA, clip: Path) -> None:
    with qa.stream() as stream:
        stream.attach(clip, speed=0.001)
        answer = stream.ask(QUESTION)
        assert answer.frame_times_s == [0.0]
        stream.close()
        assert stream.ended
    assert stream.stats.frames_in == 1


NEVER_CLOSED = """
import sys
import time
import numpy as np
import vzvideo

qa = vzvideo.load(sys.argv[1], cache=False, tokens_per_frame=5, max_new_tokens=6)
encode = qa.encoder.encode
qa.encoder.encode = lambda *frames, **how: (time.sleep(0.05), encode(*frames, **how))[1]  # slow
streams = [qa.stream(queue=2, tolerance=0.0) for _ in range(4)]
waits, ended, plays, endless = streams
waits.push(np.zeros((48, 64, 3), np.uint8), 0.0)
ended.attach(sys.argv[2])
plays.attach(sys.argv[2], speed=0.001)
endless.attach("testsrc=size=640x480:rate=25", fps=25.0, format="lavfi")
print([len(stream.ask("What happens?").text) > 0 for stream in streams])
"""


def test_what_is_never_closed_does_not_keep_python(checkpoint: Path, clip: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", NEVER_CLOSED, str(checkpoint), str(clip)],
        capture_output=True,
        text=True,
        check=False,
        timeout=2 * SLACK_S,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{[True] * 4}\n"


# -- state


def test_what_was_saved_goes_on(qa: VideoQA, tmp_path: Path) -> None:
    # A frame at a time: batches form by chance, and differ in a last bit.
    with qa.stream(budget=40, batch=1) as stream:
        push(stream, [*range(20), 19, 19])
        stream.save(tmp_path / "state")
        before, answer = stream.memory, stream.ask(QUESTION)
    with qa.stream(budget=40, batch=1, restore=tmp_path / "state") as restored:
        assert_same(restored.memory, before)
        assert restored.stats == stream.stats
        again = restored.ask(QUESTION)
        assert (again.text, again.frame_times_s) == (answer.text, answer.frame_times_s)
        with pytest.raises(SettingsError, match="go back"):
            restored.push(frame(1), 20.0)
        push(restored, range(30, 40), first_s=22.0)
        assert restored.stats.frames_in == 32
        assert restored.memory.end_s == 31.0
    with qa.stream(budget=40, batch=1) as whole:  # as if it had never been away
        push(whole, [*range(20), 19, 19, *range(30, 40)])
        assert_same(whole.memory, restored.memory)


@pytest.mark.parametrize(("fit", "share"), [(None, 0.5), ("pad", 0.0)])
def test_frames_are_fitted_as_the_stream_was_told(qa: VideoQA, fit: Any, share: float) -> None:
    wide = np.full((50, 100, 3), 200, np.uint8)
    wide[:, 25:75] = 50
    with qa.stream(budget=40, fit=fit) as stream:
        assert stream.cropped is None
        stream.push(wide, 0.0)
        assert stream.wait(SLACK_S)
        assert stream.cropped == share
        found = stream.tokens()
    assert found.settings["cropped"] == share
    torch.testing.assert_close(found.features, qa.encode(wide, fit=fit).features)


def test_a_file_goes_on_where_the_saved_one_ended(qa: VideoQA, clip: Path, tmp_path: Path) -> None:
    with qa.stream(fps=5.0) as stream:
        stream.attach(clip)
        assert stream.wait(SLACK_S)
        stream.save(tmp_path / "state")
    with qa.stream(fps=5.0, restore=tmp_path / "state") as restored:
        assert restored.ask(QUESTION).source == str(clip)
        restored.attach(clip)
        assert restored.wait(SLACK_S)
        assert restored.stats.frames_in > 15
        assert restored.memory.end_s > stream.memory.end_s + 1


def test_a_saved_stream_is_a_file_of_tokens(qa: VideoQA, tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    with qa.stream(budget=40) as stream:
        push(stream, range(20))
        stream.save(path)
        answer = stream.ask(QUESTION)
    assert qa.ask(path, QUESTION).text == answer.text
    assert VisualTokens.load(path).pts_s.tolist() == answer.frame_times_s


def test_a_smaller_budget_holds_what_was_saved(qa: VideoQA, tmp_path: Path) -> None:
    with qa.stream(budget=60) as stream:
        push(stream, range(20))
        stream.save(tmp_path / "state")
    with qa.stream(budget=21, restore=tmp_path / "state") as restored:
        assert 1 <= restored.stats.tokens <= 21
        assert (restored.memory.start_s, restored.memory.end_s) == (0.0, 19.0)
        assert restored.ask(QUESTION).text
        push(restored, range(5), first_s=20.0)
        assert restored.stats.tokens <= 21


def test_a_larger_budget_takes_more(qa: VideoQA, tmp_path: Path) -> None:
    with qa.stream(budget=20) as stream:
        push(stream, range(10))
        stream.save(tmp_path / "state")
    with qa.stream(budget=60, restore=tmp_path / "state") as restored:
        assert_same(restored.memory, stream.memory)
        push(restored, range(5), first_s=20.0)
        assert restored.stats.tokens == stream.stats.tokens + 5 * EACH


def test_what_does_not_fit_is_not_restored(
    qa: VideoQA, clip: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with qa.stream() as stream:
        push(stream, range(3))
        stream.save(tmp_path / "state")
    qa.encode(clip, frames=3).save(tmp_path / "tokens")
    content = (tmp_path / "state").read_bytes()
    (tmp_path / "cut").write_bytes(content[:-10])
    (tmp_path / "bit").write_bytes(content[:-50] + bytes([content[-50] ^ 1]) + content[-49:])
    (tmp_path / "text").write_text("once upon a time")
    folder = write_checkpoint(tmp_path_factory.mktemp("other"), small_model(seed=1))
    other = vzvideo.load(str(folder), cache=False, tokens_per_frame=EACH)
    threads = threading.active_count()
    for model, name, changes, kind, told in (
        (other, "state", {}, SettingsError, "saved with (model|tower)"),
        (qa, "state", {"tokens_per_frame": 9}, SettingsError, "saved with dominant"),
        (qa, "state", {"compress": False}, SettingsError, "saved with dominant"),
        (qa, "state", {"merge": "mean"}, SettingsError, "saved with merge 'reference'"),
        (qa, "state", {"fit": "pad"}, SettingsError, "saved with fit None"),
        (qa, "tokens", {}, SettingsError, "Stream.save"),
        (qa, "cut", {}, TokenFileError, "damaged"),
        (qa, "bit", {}, TokenFileError, "damaged"),
        (qa, "text", {}, TokenFileError, "damaged"),
        (qa, "none", {}, TokenFileError, "no such file"),
        (qa, ".", {}, TokenFileError, "directory"),
    ):
        with pytest.raises(kind, match=told) as error:
            model.stream(restore=tmp_path / name, **changes)
        assert "\n" not in str(error.value)
        assert str(tmp_path / name) in str(error.value)
    assert threading.active_count() == threads


def test_a_state_that_cannot_be_written_is_told(qa: VideoQA, tmp_path: Path) -> None:
    with qa.stream() as stream:
        push(stream, [1])
        with pytest.raises(TokenFileError, match="cannot be written"):
            stream.save(tmp_path / "missing" / "state")
        stream.save(tmp_path / "state")
    stream.save(tmp_path / "state")  # closed or not
    assert [path.name for path in tmp_path.iterdir()] == ["state"]


def test_a_stream_that_nobody_has_any_more_ends(qa: VideoQA) -> None:
    stream = qa.stream()
    push(stream, range(3))
    threads = stream._ingest._threads
    del stream
    gc.collect()
    until(lambda: not any(thread.is_alive() for thread in threads))


def test_many_wait_at_once_and_asyncio_has_threads_left(qa: VideoQA) -> None:
    """More loops wait than asyncio's own pool has threads, and one of them is answered."""
    streams = [qa.stream() for _ in range(40)]  # the pool has 32 at most

    async def first(stream: Stream) -> str:
        async for answer in stream.every(1.0, QUESTION):
            return answer.text
        return ""

    async def run() -> str:
        waiting = [asyncio.create_task(first(stream)) for stream in streams]
        await asyncio.sleep(0.2)
        push(streams[-1], range(4))
        text = await asyncio.wait_for(waiting[-1], SLACK_S)
        for stream in streams:
            stream.close()
        await asyncio.gather(*waiting)
        return text

    assert asyncio.run(run())
