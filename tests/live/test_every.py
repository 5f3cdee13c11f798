"""One question of a stream, time and again, on a small random model."""

from __future__ import annotations

import asyncio
import gc
import math
import threading
import time
from pathlib import Path

import pytest

from tests.live.streams import CLOSED_S, OTHER, QUESTION, later, push, small_qa
from tests.tolerances import PTS_S
from tests.video import clips
from tests.waiting import SLACK_S, outcome, until
from vzvideo.errors import SettingsError
from vzvideo.qa.video_qa import VideoQA

pytestmark = pytest.mark.usefixtures("no_thread_stays")


@pytest.fixture(scope="module")
def qa(checkpoint: Path) -> VideoQA:
    return small_qa(checkpoint)


def test_every_so_often_there_is_an_answer_about_the_last_of_it(qa: VideoQA) -> None:
    with qa.stream() as stream:
        answers = iter(stream.every(2.0, QUESTION))
        looked_at = []
        for numbers in (range(3), range(3, 5), range(5, 7)):
            later(push, stream, numbers, first_s=float(numbers[0]))
            answer = next(answers)
            looked_at.append(answer.frame_times_s)
            assert answer.text == stream.ask(QUESTION, since_s=-2.0).text
        assert looked_at == [[0.0, 1.0, 2.0], [2.0, 3.0, 4.0], [4.0, 5.0, 6.0]]


def test_every_looks_where_it_is_told(qa: VideoQA) -> None:
    with qa.stream() as stream:
        push(stream, [1])
        answers = iter(stream.every(2.0, QUESTION, since_s=-math.inf, max_new_tokens=2))
        later(push, stream, range(2, 7), first_s=1.0)
        answer = next(answers)
        assert answer.frame_times_s[0] == 0.0
        assert len(answer.frame_times_s) >= 3
        until(lambda: stream.stats.frames_in == 6)


def ends_with_the_file(times: list[list[float]], last_s: float) -> None:
    assert 1 <= len(times) <= 4
    assert [looked_at[-1] for looked_at in times] == sorted({at[-1] for at in times})
    assert times[-1][-1] == pytest.approx(last_s, abs=PTS_S)
    for looked_at in times:
        assert looked_at[0] >= looked_at[-1] - 0.5 - PTS_S


def test_every_ends_with_the_file_and_an_answer_for_the_rest(qa: VideoQA, clip: Path) -> None:
    with qa.stream(fps=25.0, budget=250) as stream:
        stream.attach(clip)
        ends_with_the_file([a.frame_times_s for a in stream.every(0.5, QUESTION)], 39 / 25)


def test_and_so_does_the_other_kind(qa: VideoQA, clip: Path) -> None:
    async def ask() -> list[list[float]]:
        return [answer.frame_times_s async for answer in stream.every(0.5, QUESTION)]

    with qa.stream(fps=25.0, budget=250) as stream:
        stream.attach(clip)
        ends_with_the_file(asyncio.run(asyncio.wait_for(ask(), SLACK_S)), 39 / 25)


def test_a_file_shorter_than_the_interval_gets_its_answer(qa: VideoQA, clip: Path) -> None:
    for fps in (25.0, 1.0, 0.5):  # 40 frames, 2, and 1
        with qa.stream(fps=fps, budget=250) as stream:
            stream.attach(clip)
            answers = list(stream.every(60.0, QUESTION))
        assert len(answers) == 1, fps


def test_what_nobody_adds_to_is_not_asked_again(qa: VideoQA, clip: Path) -> None:
    with qa.stream(fps=25.0) as stream:
        stream.attach(clip)
        assert stream.wait(SLACK_S)
        assert list(stream.every(0.5, QUESTION)) == []


def test_closing_from_elsewhere_ends_every(qa: VideoQA) -> None:
    with qa.stream() as stream:
        push(stream, [1])
        threading.Timer(0.2, stream.close).start()
        assert outcome(lambda: list(stream.every(5.0, QUESTION))) == []


def test_closing_from_elsewhere_ends_the_other_kind(qa: VideoQA) -> None:
    async def ask() -> list[str]:
        asyncio.get_running_loop().call_later(0.2, stream.close)
        return [answer.text async for answer in stream.every(5.0, QUESTION)]

    with qa.stream() as stream:
        push(stream, [1])
        assert asyncio.run(asyncio.wait_for(ask(), SLACK_S)) == []


def test_leaving_early_leaves_nothing_behind(qa: VideoQA) -> None:
    before = threading.active_count()

    async def ask() -> int:
        async for answer in stream.every(1.0, QUESTION):
            return len(answer.frame_times_s)
        return 0

    async def is_cancelled() -> None:
        async for _ in stream.every(1000.0, QUESTION):
            pass

    with qa.stream() as stream:
        later(push, stream, range(3))
        assert asyncio.run(ask()) >= 2
        began = time.monotonic()
        with pytest.raises(TimeoutError):
            asyncio.run(asyncio.wait_for(is_cancelled(), 0.2))
        assert time.monotonic() - began < CLOSED_S
        later(push, stream, range(3, 6), first_s=3.0)
        for _ in stream.every(1.0, QUESTION):
            break
        until(lambda: stream.stats.frames_in == 6)
    gc.collect()
    until(lambda: threading.active_count() <= before)


def test_two_ask_again_and_again_at_once(qa: VideoQA) -> None:
    async def ask(question: str) -> list[str]:
        return [answer.question async for answer in stream.every(1.0, question)]

    async def both() -> list[list[str]]:
        return list(await asyncio.gather(ask(QUESTION), ask(OTHER)))

    with qa.stream() as stream:
        later(push, stream, range(4))
        threading.Timer(1.0, stream.close).start()
        first, second = asyncio.run(asyncio.wait_for(both(), SLACK_S))
        assert set(first) == {QUESTION}
        assert set(second) == {OTHER}


@pytest.mark.parametrize("seconds", [0, -1, math.nan, math.inf])
def test_an_interval_that_cannot_be_is_refused(qa: VideoQA, seconds: float) -> None:
    with qa.stream() as stream, pytest.raises(SettingsError, match="every"):
        stream.every(seconds, QUESTION)


def test_a_file_waits_for_its_answers(qa: VideoQA, tmp_path: Path) -> None:
    """Read as fast as it decodes, it would be through before the first answer is there."""
    path = tmp_path / "six.mp4"
    clips.write(clips.KINDS[0], path)  # 60 frames at 10 a second
    with qa.stream(fps=10.0, budget=250) as stream:
        again = stream.every(1.0, QUESTION)
        stream.attach(path)
        looked_to = []
        for answer in again:
            time.sleep(0.1)
            looked_to.append(again.at_s)
            assert answer.frame_times_s[-1] == pytest.approx(again.at_s, abs=PTS_S)
    assert looked_to == pytest.approx([1.0, 2.0, 3.0, 4.0, 5.0, 5.9], abs=PTS_S)
    assert again.skipped == 0


def test_what_is_live_waits_for_nobody(qa: VideoQA) -> None:
    with qa.stream() as stream:
        again = stream.every(1.0, QUESTION)
        answers = iter(again)
        later(push, stream, range(3))
        next(answers)  # and while it is given, seconds go by
        push(stream, range(3, 9), first_s=3.0)
        stream.wait()
        next(answers)
        assert (again.at_s, again.skipped > 0) == (8.0, True)


def test_whoever_stops_asking_holds_nothing_back(qa: VideoQA, tmp_path: Path) -> None:
    path = tmp_path / "six.mp4"
    clips.write(clips.KINDS[0], path)
    with qa.stream(fps=10.0, budget=250) as stream:
        again = stream.every(1.0, QUESTION)
        stream.attach(path)
        next(iter(again))
        del again
        gc.collect()
        assert stream.wait(SLACK_S)
        assert stream.stats.frames_in == 60
