"""The page in a real browser: what it asks for, shows, says, and does at the keyboard."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import vzvideo
from tests.show import made
from tests.show.browser import Browser, installed
from vzvideo.models import catalog, weights
from vzvideo.show.look import inspect_video
from vzvideo.show.page import page

FRAMES = 4
FACTS = "document.getElementById('facts').textContent"
STATUS = "document.getElementById('status').textContent"
TOKEN = STATUS + ".split('; the answer drew')[0]"
FOCUSED = "document.activeElement.id || document.activeElement.value"
LABELS = "[...document.querySelectorAll('canvas.picture')].map(c => c.getAttribute('aria-label'))"
# The pixels of each frame's picture, and of its strip.
PIXELS = "[...document.querySelectorAll('#frames canvas')].map(c => c.toDataURL())"

# Text whose contrast with what is painted behind it is too low, and how low.
FAINT = """(() => {
  const numbers = color => {
    const [r, g, b, a = 1] = color.match(/[\\d.]+/g).map(Number);
    return [r, g, b, a];
  };
  const over = (top, under) => top.slice(0, 3).map((c, i) => c * top[3] + under[i] * (1 - top[3]));
  const light = color => {
    const [r, g, b] = color.map(c => c / 255)
      .map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = element => {
    const layers = [];
    for (let at = element; at; at = at.parentElement)
      layers.unshift(numbers(getComputedStyle(at).backgroundColor));
    return layers.reduce((under, top) => over(top, under), [255, 255, 255]);
  };
  const faint = [];
  let texts = 0;
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const text = walker.currentNode.textContent.trim(), element = walker.currentNode.parentElement;
    if (!text || !element.checkVisibility() || element.closest("script, style, noscript, title"))
      continue;
    texts++;
    const style = getComputedStyle(element), under = behind(element);
    const ink = over(numbers(element instanceof SVGElement ? style.fill : style.color), under);
    const [high, low] = [light(ink), light(under)].sort((a, b) => b - a);
    const contrast = (high + 0.05) / (low + 0.05);
    if (contrast < 4.5) faint.push([text.slice(0, 40), contrast]);
  }
  return { texts, faint };
})()"""

# What a browser would have to fetch, by whatever attribute.
REACHES = """[...document.querySelectorAll('*')].flatMap(e => [...e.attributes])
  .filter(a => ['src', 'href', 'srcset', 'action', 'data', 'poster', 'xlink:href'].includes(a.name))
  .map(a => a.value)"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    program = installed()
    if program is None:
        pytest.skip("no Chromium on this machine (chromium, chromium-browser, google-chrome)")
    with Browser(program) as found:
        yield found


@pytest.fixture(scope="module")
def written(checkpoint: Path, clip: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a real clip, with an answer and what it drew on."""
    qa = vzvideo.load(
        str(checkpoint), device="cpu", frames=FRAMES, tokens_per_frame=5, cache=False,
        max_new_tokens=6,
    )  # fmt: skip
    looked, tokens = inspect_video(qa, str(clip))
    answer = qa.ask(tokens, "What is the man doing?")
    path = tmp_path_factory.mktemp("page") / "page.html"
    path.write_text(page(looked, answer, qa.evidence(tokens, answer)), "utf-8")
    return path


@pytest.fixture
def opened(browser: Browser, written: Path) -> Browser:
    """The page as it is first seen."""
    browser.resize(1280, 1000)
    browser.scheme("light")
    browser.move(2, 2)
    browser.open(written)
    return browser


def tab_to(browser: Browser, wanted: str) -> None:
    for _ in range(20):
        browser.press("Tab")
        if browser.js(FOCUSED) == wanted:
            return
    raise AssertionError(f"{wanted}: Tab does not come there")


def rectangle(browser: Browser, selector: str) -> dict[str, float]:
    code = f"(() => {{ const e = document.querySelector({selector!r}); e.scrollIntoView({{block: "
    code += "'center'}); return e.getBoundingClientRect().toJSON(); })()"
    found: dict[str, float] = browser.js(code)
    return found


# -- as it is first seen


def test_it_loads_in_silence_and_asks_for_nothing_else(opened: Browser, written: Path) -> None:
    assert opened.complaints == []
    assert opened.requests == [written.as_uri()]
    assert all(address.startswith("data:") for address in opened.js(REACHES))
    assert opened.js("document.querySelectorAll('#frames figure').length") == FRAMES
    assert opened.js("document.title").startswith("numbers.mp4")
    # Every picture is painted: not one colour, and not one picture for all.
    pictures = opened.js(PIXELS)
    assert len(set(pictures[::2])) == FRAMES
    spread = """[...document.querySelectorAll('canvas.picture')].map(c => new Set(
        c.getContext('2d').getImageData(0, 0, c.width, c.height).data).size)"""
    assert min(opened.js(spread)) > 20


def test_it_reaches_nothing_even_when_told_to(opened: Browser) -> None:
    """The page's own policy: whatever got in could not call home."""
    opened.js(
        "window.refused = []; document.addEventListener('securitypolicyviolation',"
        " event => refused.push(event.effectiveDirective))"
    )
    opened.js("document.body.append(Object.assign(new Image(), {src: 'https://example.org/x'}))")
    opened.js("fetch('https://example.org/').catch(() => 0)")
    opened.settle()
    assert sorted(opened.js("refused")) == ["connect-src", "img-src"]


def test_what_it_says_is_what_was_seen(opened: Browser) -> None:
    facts = opened.js(FACTS)
    assert facts.startswith("4 frames, 0:00.2 to 0:01.4; 68 tokens → 20 (4 dominant + 1 contextual")
    assert "@" not in facts
    assert opened.js(LABELS)[0].startswith("Frame at 0:00.2, 5 of 17 tokens: 3 patches kept")
    assert opened.js("document.querySelector('.asked').textContent").startswith("What is the man")
    widths = opened.js(
        "[...document.querySelectorAll('.drawn i')].map(i => parseFloat(i.style.width))"
    )
    assert len(widths) == FRAMES
    assert max(widths) == pytest.approx(100)


# -- names


def test_everything_that_is_seen_has_a_name(opened: Browser) -> None:
    names = opened.js(
        "[...document.querySelectorAll('canvas, img, svg, [role=img]')]"
        ".filter(e => e.getAttribute('aria-hidden') !== 'true')"
        ".map(e => e.getAttribute('aria-label') || e.alt || '')"
    )
    assert len(names) == FRAMES + FRAMES + 1 + 3  # pictures, bars, timeline, charts
    assert all(len(name) > 10 for name in names)
    assert opened.js("document.documentElement.lang") == "en"


def test_controls_are_named_for_those_who_cannot_see_them(opened: Browser) -> None:
    named = opened.named()
    assert ("RootWebArea", "numbers.mp4 - what the model sees") in named
    assert [name for role, name in named if role == "radio"] == ["5", "9", "17"]
    assert ("group", "Tokens a frame") in named or ("radiogroup", "Tokens a frame") in named
    (slider,) = (name for role, name in named if role == "slider")
    assert "attention" in slider.lower()
    boxes = [name.strip() for role, name in named if role == "checkbox"]
    assert boxes == ["groups", "dim what is not kept"]
    assert any(role == "status" for role, _ in named)
    assert next(name for role, name in named if role == "heading") == "numbers.mp4"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_stands_out_from_what_is_behind_it(opened: Browser, scheme: str) -> None:
    opened.scheme(scheme)
    opened.js("document.getElementById('frame-0').focus()")
    opened.press("ArrowRight")
    found = opened.js(FAINT)
    assert found["texts"] > 60
    assert found["faint"] == []


def test_the_two_schemes_differ(opened: Browser) -> None:
    color = "getComputedStyle(document.body).backgroundColor"
    before = opened.js(color)
    opened.scheme("dark")
    assert opened.js(color) != before


@pytest.mark.parametrize("width", [360, 768, 1920])
def test_nothing_scrolls_sideways(opened: Browser, width: int) -> None:
    opened.resize(width, 800)
    wide = "[document.documentElement.scrollWidth, document.documentElement.clientWidth]"
    scrolled, shown = opened.js(wide)
    assert scrolled <= shown
    # A canvas drawn for another width would be blurred.
    assert opened.js(
        "[...document.querySelectorAll('canvas.picture')].every(c => c.width === c.clientWidth)"
    )


# -- the controls


def test_another_budget_by_keyboard(opened: Browser) -> None:
    before, labels, pixels = opened.js(FACTS), opened.js(LABELS), opened.js(PIXELS)
    tab_to(opened, "5")
    opened.press("ArrowRight")
    assert opened.js(FOCUSED) == "9"
    assert opened.js(FACTS) == before.replace("20 (4 dominant + 1", "36 (8 dominant + 1")
    assert opened.js(LABELS)[0].startswith("Frame at 0:00.2, 9 of 17 tokens: 7 patches kept")
    assert all(a != b for a, b in zip(pixels, opened.js(PIXELS), strict=True))
    captions = "[...document.querySelectorAll('#frames figcaption span')].map(s => s.textContent)"
    assert opened.js(captions) == ["17 → 9"] * FRAMES
    opened.press("ArrowLeft")
    assert (opened.js(FACTS), opened.js(LABELS), opened.js(PIXELS)) == (before, labels, pixels)


def test_the_focus_is_seen(opened: Browser) -> None:
    for wanted, seen in (
        ("5", "document.activeElement.nextElementSibling"),
        ("attention", "document.activeElement"),
        ("groups", "document.activeElement"),
        ("frame-0", "document.activeElement"),
    ):
        tab_to(opened, wanted)
        assert opened.js(f"getComputedStyle({seen}).outlineStyle") == "solid", wanted


def test_the_slider_lays_the_attention_over_the_frames(opened: Browser) -> None:
    before = opened.js(PIXELS)
    tab_to(opened, "attention")
    opened.press("ArrowRight", 30)
    assert opened.js("document.activeElement.value") == "30"
    some = opened.js(PIXELS)
    opened.press("End")
    assert opened.js("document.activeElement.value") == "100"
    full = opened.js(PIXELS)
    for pictures in zip(before[::2], some[::2], full[::2], strict=True):
        assert len(set(pictures)) == 3
    opened.press("Home")
    assert opened.js(PIXELS) == before


@pytest.mark.parametrize("box", ["groups", "dim"])
def test_boxes_change_what_is_drawn_and_back(opened: Browser, box: str) -> None:
    before = opened.js(PIXELS)
    tab_to(opened, box)
    opened.press(" ")
    assert not opened.js(f"document.getElementById({box!r}).checked")
    assert all(a != b for a, b in zip(before[::2], opened.js(PIXELS)[::2], strict=True))
    opened.press(" ")
    assert opened.js(PIXELS) == before


# -- tokens


def test_arrows_walk_through_a_frames_tokens(opened: Browser) -> None:
    tab_to(opened, "frame-0")
    before = opened.js(PIXELS)
    said, pixels = [], []
    for _ in range(5):
        opened.press("ArrowRight")
        said.append(opened.js(TOKEN))
        pixels.append(opened.js(PIXELS))
    head = "Frame at 0:00.2, token {} of 5: "
    assert said[0] == head.format(1) + "the CLS, which stands for the frame as a whole"
    assert said[1:4] == [head.format(n) + "dominant, one patch as it is" for n in (2, 3, 4)]
    assert said[4] == head.format(5) + "contextual, 13 patches merged"
    assert len({each[0] for each in pixels}) == 5
    assert all(each[2:] == before[2:] for each in pixels)  # other frames stay
    opened.press("ArrowRight")
    assert opened.js(TOKEN) == said[0]
    opened.press("ArrowLeft")
    assert opened.js(TOKEN) == said[4]
    opened.press("Escape")
    assert (opened.js(TOKEN), opened.js(PIXELS)) == ("", before)
    opened.press("ArrowLeft")
    assert opened.js(TOKEN) == said[4]
    opened.press("Tab")  # leaving lets go too
    assert (opened.js(TOKEN), opened.js(PIXELS)) == ("", before)


def test_up_and_down_go_to_other_frames(opened: Browser) -> None:
    tab_to(opened, "frame-0")
    for key, expected in (
        ("ArrowUp", "frame-0"),
        ("ArrowDown", "frame-1"),
        ("ArrowDown", "frame-2"),
        ("ArrowDown", "frame-3"),
        ("ArrowDown", "frame-3"),
        ("ArrowUp", "frame-2"),
    ):
        opened.press(key)
        assert opened.js(FOCUSED) == expected


def test_enter_enlarges_and_makes_small_again(opened: Browser) -> None:
    tab_to(opened, "frame-1")
    size = "document.querySelector('#frame-1 canvas').width"
    before = opened.js(size)
    opened.press("Enter")
    opened.settle()
    assert opened.js(size) > 2 * before
    assert opened.js(FOCUSED) == "frame-1"
    opened.press("Enter")
    assert opened.js(size) == before


def test_the_mouse_lights_the_token_under_it(opened: Browser) -> None:
    box = rectangle(opened, "#frame-0 canvas.picture")
    before = opened.js(PIXELS)
    expected = opened.js("data.cuts[5].assignment[0]")
    for patch in (0, 6, 15):
        opened.move(box["x"] + box["width"] * (patch % 4 + 0.5) / 4,
                    box["y"] + box["height"] * (patch // 4 + 0.5) / 4)  # fmt: skip
        assert opened.js(STATUS).startswith(f"Frame at 0:00.2, token {expected[patch] + 1} of 5: ")
    lit = opened.js(PIXELS)
    assert lit[0] != before[0]
    assert lit[2:] == before[2:]
    # What is lit is brighter than what is not.
    bright = """(patch => { const c = document.querySelector('#frame-0 canvas.picture');
      const edge = c.width / 4, x = patch % 4 * edge, y = Math.floor(patch / 4) * edge;
      const d = c.getContext('2d').getImageData(x + 12, y + 12, edge - 24, edge - 24).data;
      return d.filter((_, i) => i % 4 < 3).reduce((a, b) => a + b) / d.length; })"""
    lit_levels = [opened.js(f"{bright}({p})") for p in range(16) if expected[p] == expected[15]]
    others = [opened.js(f"{bright}({p})") for p in range(16) if expected[p] != expected[15]]
    assert max(others) < max(lit_levels)
    strip = rectangle(opened, "#frame-0 canvas.strip")
    opened.move(strip["x"] + strip["width"] * 0.99, strip["y"] + 8)
    assert "token 5 of 5" in opened.js(STATUS)
    opened.move(2, 2)
    assert opened.js(STATUS) == ""


def test_a_click_enlarges(opened: Browser) -> None:
    box = rectangle(opened, "#frame-2 canvas.picture")
    opened.click(box["x"] + 5, box["y"] + 5)
    assert opened.js("document.getElementById('frame-2').className") == "large"
    assert opened.complaints == []


def test_a_frame_in_focus_is_not_under_the_bar(opened: Browser) -> None:
    opened.resize(360, 500)
    tab_to(opened, "frame-0")
    opened.press("ArrowDown", 3)
    opened.press("ArrowUp", 2)
    opened.settle()
    below = """document.activeElement.getBoundingClientRect().top -
      document.querySelector('.bar').getBoundingClientRect().bottom"""
    assert opened.js(below) >= 0


def test_the_timeline_goes_with_the_budget(opened: Browser) -> None:
    tab_to(opened, "5")
    opened.press("ArrowRight")
    told = opened.js("document.querySelector('#timeline .density title').textContent")
    span_s = float(opened.js("document.querySelector('#timeline .density').dataset.span"))
    assert f": {9 / span_s:.3g} tokens a second" in told


# -- other pages


def test_across_frames_a_lasting_token_is_lit_wherever_it_stands(
    browser: Browser, checkpoint: Path, clip: Path, tmp_path: Path
) -> None:
    qa = vzvideo.load(str(checkpoint), frames=4, tokens_per_frame=5, temporal="on")
    seen, _ = inspect_video(qa, str(clip))
    assert seen.across is not None
    opened = shown(browser, tmp_path, seen)
    assert opened.js("state.budget") == "across"
    assert f"→ {seen.across.total} (5.0 on average a frame)" in opened.js(FACTS)
    stretches = {
        (begin, until)
        for begin, until in zip(seen.across.frame.tolist(), seen.across.until.tolist(), strict=True)
        if until - begin > 1
    }
    bars = "document.querySelectorAll('#timeline .lasting').length"
    assert opened.js(bars) == len(stretches) > 0
    first = next(
        n for n in range(seen.across.total) if seen.across.until[n] - seen.across.frame[n] > 1
    )
    begin, until = int(seen.across.frame[first]), int(seen.across.until[first])
    place = seen.across.token[begin].tolist().index(first)
    opened.js(f"point({begin}, {place})")
    assert " that stay from " in opened.js(STATUS)
    lit = opened.js("data.frames.map((_, frame) => litIn(frame) >= 0)")
    assert lit == [begin <= frame < until for frame in range(4)]
    assert opened.js("document.querySelectorAll('#timeline .lasting.lit').length") == 1
    opened.js("choose(5)")
    assert opened.js(bars) == 0
    assert opened.complaints == []


def shown(browser: Browser, folder: Path, *parts: Any) -> Browser:
    path = folder / "other.html"
    path.write_text(page(*parts), "utf-8")
    browser.resize(1280, 1000)
    browser.open(path)
    return browser


@pytest.mark.parametrize("case", made.HOSTILE)
def test_hostile_words_are_words(browser: Browser, tmp_path: Path, case: str) -> None:
    words = made.HOSTILE[case]
    seen = made.look(2, source=words, model=words)
    shown(browser, tmp_path, seen, made.answer(words, words), made.drawn(seen))
    browser.settle()
    assert browser.js("window.hacked") is None
    assert browser.complaints == []
    assert len(browser.requests) == 1
    name = words.rsplit("/", 1)[-1].replace("\r\n", "\n")
    assert browser.js("document.querySelector('h1').textContent") == name
    assert browser.js("document.querySelector('.answer').textContent") == (
        words.replace("\r\n", "\n")
    )
    assert words in browser.js(FACTS)  # the model's name, which comes by another way
    assert browser.js("document.querySelectorAll('#frames figure').length") == 2
    assert browser.js("document.querySelectorAll('.asked p').length") == 3
    assert browser.js("document.images.length + document.querySelectorAll('script').length") == 2


@pytest.mark.parametrize("frames", [1, 2, 32])
@pytest.mark.parametrize("width", [360, 1280])
def test_any_number_of_frames(browser: Browser, tmp_path: Path, frames: int, width: int) -> None:
    seen = made.look(frames, edge=16, chosen=17)
    shown(browser, tmp_path, seen, made.answer(), made.drawn(seen))
    browser.resize(width, 800)
    assert browser.complaints == []
    assert browser.js("document.documentElement.scrollWidth") <= width
    assert browser.js("[...document.querySelectorAll('[name=budget]')].map(i => i.value)") == [
        "9", "17", "33", "65",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "part",
    [
        "source",
        pytest.param(
            "model",
        ),
        "words",
    ],
)
def test_long_words_do_not_widen_the_page(browser: Browser, tmp_path: Path, part: str) -> None:
    long = "a" * 300
    seen = made.look(2, **({part: long} if part != "words" else {}))  # type: ignore[arg-type]
    answer = made.answer(long, long) if part == "words" else made.answer()
    shown(browser, tmp_path, seen, answer, made.drawn(seen))
    browser.resize(360, 800)
    assert browser.js("document.documentElement.scrollWidth") <= 360


def test_all_text_is_large_enough_to_read(opened: Browser) -> None:
    opened.resize(360, 800)
    smallest = """Math.min(...[...document.querySelectorAll('svg text')].map(t =>
      parseFloat(getComputedStyle(t).fontSize) * t.getScreenCTM().a))"""
    assert opened.js(smallest) >= 9


def test_what_a_token_is_can_be_read_where_it_is_chosen(browser: Browser, tmp_path: Path) -> None:
    shown(browser, tmp_path, made.look(32, edge=8))
    tab_to(browser, "frame-0")
    browser.press("ArrowDown", 25)
    browser.press("ArrowRight")
    browser.settle()
    place = "document.getElementById('status').getBoundingClientRect().bottom"
    assert browser.js(STATUS) != ""
    assert 0 < browser.js(place) <= 1000


@pytest.mark.parametrize(("tokens", "contextual"), [(9, 0), (1, 0), (4, 3), (17, 0), (2, 1)])
def test_odd_splits_are_drawn(
    browser: Browser, tmp_path: Path, tokens: int, contextual: int
) -> None:
    shown(browser, tmp_path, made.look(2, chosen=tokens, contextual=contextual))
    assert browser.complaints == []
    box = rectangle(browser, "#frame-0 canvas.picture")
    for patch in range(16):
        browser.move(box["x"] + box["width"] * (patch % 4 + 0.5) / 4,
                     box["y"] + box["height"] * (patch // 4 + 0.5) / 4)  # fmt: skip
    browser.move(2, 2)
    browser.js("document.getElementById('frame-0').focus()")
    browser.press("ArrowRight", tokens + 1)
    assert f"token 1 of {tokens}: " in browser.js(STATUS)
    assert browser.complaints == []


def test_dropped_patches_are_called_dropped(browser: Browser, tmp_path: Path) -> None:
    shown(browser, tmp_path, made.look(2, chosen=9, contextual=0))
    assert "0 contextual" not in browser.js(LABELS)[0]
    assert "dropped" in browser.js(LABELS)[0]


def test_one_token_is_one_token(opened: Browser) -> None:
    assert "1 contextual tokens" not in opened.js(LABELS)[0]


def test_mini_on_a_real_clip(browser: Browser, real_clips: list[Path], tmp_path: Path) -> None:
    if weights.locate(catalog.find("mini")) is None:
        pytest.skip("mini has not been pulled: `vzvideo pull mini` gets it")
    qa = vzvideo.load("mini", device="cpu", frames=2)
    shown(browser, tmp_path, inspect_video(qa, str(real_clips[0]))[0])
    assert browser.complaints == []
    assert browser.js("[...document.querySelectorAll('[name=budget]')].map(i => i.value)") == [
        "9", "17", "33", "65",
    ]  # fmt: skip
    browser.js("document.getElementById('frame-0').focus()")
    browser.press("ArrowLeft")
    assert "token 17 of 17: contextual" in browser.js(STATUS)
