"""The page as text: whole, small, and nothing in it that a name or a question has put there."""

from __future__ import annotations

import base64
import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.show import made
from vzvideo.qa.evidence import Evidence
from vzvideo.show.look import Inspection
from vzvideo.show.page import page
from vzvideo.words import format_time

LARGEST = 5_000_000  # bytes, of 32 frames


class Reader(HTMLParser):
    """Elements with their attributes, and the text of each."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.texts: list[list[str]] = []
        self._open: list[int] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        self.texts.append([])
        self._open.append(len(self.texts) - 1)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self._open.pop()

    def handle_endtag(self, tag: str) -> None:
        while self._open and self.elements[self._open.pop()][0] != tag:
            pass

    def handle_data(self, data: str) -> None:
        for index in self._open[-1:]:
            self.texts[index].append(data)

    def all(self, tag: str, **wanted: str) -> list[tuple[dict[str, str], str]]:
        return [
            (about, "".join(text))
            for (name, about), text in zip(self.elements, self.texts, strict=True)
            if name == tag and wanted.items() <= about.items()
        ]

    @property
    def data(self) -> Any:
        ((_, text),) = self.all("script", id="data")
        return json.loads(text)


def bars(text: str, kind: str) -> list[tuple[float, float, float]]:
    """x, width and height of the timeline's bars."""
    return [
        (float(about["x"]), float(about["width"]), float(about["height"]))
        for about, _ in Reader(text).all("rect", **{"class": kind})
    ]


def times(text: str) -> list[str]:
    """What is written along the timeline."""
    written = text[text.index('<div class="times"') :].partition("</div>")[0]
    return re.findall(r"<span[^>]*>([^<]*)</span>", written)


def test_the_data_are_those_of_the_look() -> None:
    seen = made.look(3)
    evidence = made.drawn(seen)
    data = Reader(page(seen, made.answer(), evidence)).data
    assert (data["grid"], data["tokens"], data["chosen"]) == ([4, 4], 17, 9)
    assert list(data["cuts"]) == ["9", "17"]
    for tokens, cut in seen.cuts.items():
        told = data["cuts"][str(tokens)]
        assert told["dominant"] == cut.dominant
        np.testing.assert_array_equal(told["patch"], cut.patch)
        np.testing.assert_array_equal(told["assignment"], cut.assignment)
    np.testing.assert_allclose(data["evidence"], evidence.frames, atol=1e-5)
    for told, attention in zip(data["frames"], seen.attention, strict=True):
        np.testing.assert_allclose(told["attention"], 255 * attention / attention.max(), atol=0.51)
        picture = Image.open(io.BytesIO(base64.b64decode(told["jpeg"], validate=True)))
        assert picture.format == "JPEG"
        assert picture.size[0] == picture.size[1]
    assert [told["time"] for told in data["frames"]] == ["0:00.2", "0:00.6", "0:01.0"]


def test_pictures_are_the_frames() -> None:
    seen = made.look(3)
    levels = np.array([30, 120, 220], np.uint8)
    pictures = np.broadcast_to(levels[:, None, None, None], (3, 64, 64, 3))
    data = Reader(page(replace(seen, pictures=np.ascontiguousarray(pictures)))).data
    for told, level in zip(data["frames"], levels, strict=True):
        picture = Image.open(io.BytesIO(base64.b64decode(told["jpeg"])))
        assert np.asarray(picture).mean() == pytest.approx(level, abs=3)


@pytest.mark.parametrize(("edge", "pixels"), [(16, 448), (24, 672)])
def test_32_frames_of_noise_stay_below_5_mb(edge: int, pixels: int) -> None:
    """Which is the worst for JPEG, in the patches of `mini` and of the 7B."""
    seen = made.look(32, edge=edge, pixels=pixels, chosen=17)
    text = page(seen, made.answer(), made.drawn(seen))
    assert len(text.encode()) < LARGEST
    # Not by making them so small that there is nothing to be seen.
    picture = Image.open(io.BytesIO(base64.b64decode(Reader(text).data["frames"][0]["jpeg"])))
    assert picture.size[0] >= 192


def test_without_a_question_there_is_no_answer() -> None:
    text = page(made.look())
    assert 'class="asked"' not in text
    assert "Orange bars" not in text
    assert Reader(text).data["evidence"] is None
    assert bars(text, "evidence") == []


def test_an_answer_stands_with_what_it_drew_on() -> None:
    seen = made.look()
    evidence = made.drawn(seen)
    text = page(seen, made.answer("Who?", "A man."), evidence)
    reader = Reader(text)
    assert [said for _, said in reader.all("p", **{"class": "answer"})] == ["A man."]
    assert "Drawn from 0:00.6" in text
    ((timeline, _),) = reader.all("svg", id="timeline")
    assert timeline["aria-label"].endswith("; answer: drawn from 0:00.6")
    shares = np.array([high for _, _, high in bars(text, "evidence")])
    np.testing.assert_allclose(shares / shares.sum(), evidence.frames, atol=0.005)


def test_what_is_cropped_stands_among_the_facts() -> None:
    whole, wide = made.look(), replace(made.look(), cropped=0.4375)
    assert "cropped" not in Reader(page(whole)).data["facts"]
    facts = Reader(page(wide)).data["facts"]
    assert facts.endswith("; 44 % of each frame cropped (--fit pad keeps it)")


def test_nothing_is_left_to_fill_in() -> None:
    seen = made.look()
    for text in (page(seen), page(seen, made.answer(), made.drawn(seen))):
        left = set(re.findall(r"@[a-z]+@", text))
        assert left == {"@after@", "@split@"}  # which the script fills in


@pytest.mark.parametrize("case", made.HOSTILE)
def test_hostile_words_stay_words(case: str) -> None:
    words = made.HOSTILE[case]
    plain, hostile = made.look(2), made.look(2, source=words, model=words)
    expected = Reader(page(plain, made.answer(), made.drawn(plain)))
    text = page(hostile, made.answer(words, words), made.drawn(hostile))
    found = Reader(text)
    # The same elements with the same attributes, whatever was put in.
    assert found.elements == expected.elements
    assert words.rsplit("/", 1)[-1] in found.all("h1")[0][1]
    assert found.all("p", **{"class": "answer"})[0][1] == words
    assert found.data["facts"].endswith(f"model {words}")
    assert found.data["cuts"] == expected.data["cuts"]
    # Nor anything that could end the data's element, however a browser reads it.
    held = text.partition('id="data">')[2].partition("\n<script>")[0].removesuffix("</script>")
    assert "<" not in held


def test_nothing_is_fetched() -> None:
    text = page(made.look(source="https://example.org/clip.mp4"))
    for tag, about in Reader(text).elements:
        assert not {"src", "href", "srcset", "action", "poster", "data"} & about.keys(), tag
    assert "url(" not in text
    assert "@import" not in text
    assert "http" not in re.sub(r'(<script[^>]*id="data">.*?</script>|http-equiv)', "", text)
    (policy,) = (
        about["content"]
        for about, _ in Reader(text).all("meta")
        if about.get("http-equiv") == "Content-Security-Policy"
    )
    assert "default-src 'none'" in policy


# -- the timeline


@pytest.mark.parametrize("frames", [1, 2, 7, 32])
@pytest.mark.parametrize("every_s", [0.04, 1.0, 400.0])
def test_bars_fill_the_timeline_from_end_to_end(frames: int, every_s: float) -> None:
    drawn = bars(page(made.look(frames, every_s=every_s)), "density")
    assert len(drawn) == frames
    assert drawn[0][0] == pytest.approx(0.5)
    assert drawn[-1][0] + drawn[-1][1] == pytest.approx(999.5, abs=0.1)
    for (left, width, _), (following, _, _) in pairwise(drawn):
        assert left + width < following + 0.01


def test_density_is_higher_where_frames_are_nearer() -> None:
    seen = replace(made.look(5), pts_s=np.array([0.5, 1.5, 2.5, 10.5, 20.5]))
    high = [each for _, _, each in bars(page(seen), "density")]
    assert high[:2] == [max(high)] * 2
    # 9 tokens for a second, and for nine: (2.5 + 10.5) / 2 to (10.5 + 20.5) / 2.
    assert high[3] / high[1] == pytest.approx(1 / 9, abs=0.01)


def test_frames_evenly_spaced_from_0_are_equally_dense() -> None:
    """As --fps has them."""
    seen = replace(made.look(5), pts_s=np.arange(5.0))
    assert len({high for _, _, high in bars(page(seen), "density")}) == 1


@pytest.mark.parametrize("frames", [3, 8, 32])
@pytest.mark.parametrize("every_s", [2.0, 7.5, 60.0, 500.0])
def test_times_along_the_timeline_ascend(frames: int, every_s: float) -> None:
    written = times(page(made.look(frames, every_s=every_s)))
    assert 2 <= len(written) <= 9
    assert len(set(written)) == len(written)


@pytest.mark.parametrize(("frames", "every_s"), [(1, 1.0), (2, 1.0), (3, 1.2), (8, 0.04)], ids=str)
def test_no_time_is_written_twice(frames: int, every_s: float) -> None:
    written = times(page(made.look(frames, every_s=every_s)))
    assert len(set(written)) == len(written)


def test_one_frame_at_the_start_begins_at_0() -> None:
    seen = replace(made.look(1), pts_s=np.array([0.0]))
    text = page(seen)
    line = re.search(r'<line x1="([\d.]+)"', text)
    assert line is not None
    first = float(line[1])
    assert first == pytest.approx(0, abs=1)


# -- the charts


def test_every_chart_says_in_words_what_it_shows() -> None:
    seen = made.look(4)
    reader = Reader(page(seen))
    charts = reader.all("svg", **{"class": "chart"})
    captions = [text for _, text in reader.all("figcaption")]
    assert len(charts) == 3
    assert [about["aria-label"] for about, _ in charts] == captions
    assert f"{np.median(seen.neighbours):.2f} (median" in captions[2]
    assert f"{np.median(seen.cuts[9].to_kept):.2f} with the nearest kept patch" in captions[1]


def test_what_there_is_none_of_is_left_out() -> None:
    def count(seen: Inspection) -> int:
        return len(Reader(page(seen)).all("svg", **{"class": "chart"}))

    assert count(made.look(2)) == 2  # one pair of neighbours makes no line
    assert count(made.look(3, chosen=17, contextual=0)) == 2  # nothing is left out
    assert count(made.look(1, chosen=17, contextual=0)) == 1


def test_evidence_that_is_alike_everywhere() -> None:
    seen = made.look(4)
    alike = Evidence(np.full(36, 1 / 36), np.full(4, 0.25), seen.pts_s)
    text = page(seen, made.answer(), alike)
    assert "No part stands out" in text
    assert len({high for _, _, high in bars(text, "evidence")}) == 1


def test_a_page_to_be_shared_keeps_no_secret_of_an_address() -> None:
    source = "https://me:word@example.org/clip.mp4?X-Signature=secret"
    assert "secret" not in page(made.look(source=source))


def test_times_are_as_fine_as_the_frames() -> None:
    data = Reader(page(made.look(3, every_s=30.0))).data
    shown = [format_time(time_s) for time_s in (0.2, 30.2, 60.2)]
    assert [frame["time"] for frame in data["frames"]] == shown
