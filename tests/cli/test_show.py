"""`vzvideo show` as a user meets it: what is written where, and one line where it cannot be."""

from __future__ import annotations

import json
import os
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import vzvideo
from tests.cli.command import OTHER, QUESTION, Command, imported_by
from tests.show.test_page import Reader
from tests.video import clips
from vzvideo.cli import show as cli_show
from vzvideo.errors import SettingsError

SMALL = ["--frames", "4", "--tokens-per-frame", "5", "--max-new-tokens", "6", "--device", "cpu"]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the command is typed."""
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    return here


@pytest.fixture
def show(vz: Command, checkpoint: Path) -> Command:
    return lambda *arguments: vz("show", *arguments, "--model", checkpoint, *SMALL)


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# -- what is written


def test_a_page_is_named_after_the_video(show: Command, clip: Path, folder: Path) -> None:
    said = show(clip)
    assert (said.status, said.out) == (0, "numbers.html\n")
    assert said.err == "25 % of each frame cropped\n"
    assert files(folder) == ["numbers.html"]
    reader = Reader((folder / "numbers.html").read_text("utf-8"))
    assert (len(reader.data["frames"]), reader.data["chosen"]) == (4, 5)
    assert list(reader.data["cuts"]) == ["5", "9", "17"]  # this tower has no 33
    assert reader.data["evidence"] is None


def test_a_page_goes_where_it_is_told(show: Command, clip: Path, folder: Path) -> None:
    (folder / "sub").mkdir()
    said = show(clip, "-o", "sub/report.html")
    assert (said.status, said.out) == (0, "sub/report.html\n")
    assert files(folder) == ["sub"]
    assert files(folder / "sub") == ["report.html"]
    again = show(clip, "-o", "sub/report.html")  # a page may replace a page
    assert again.status == 0


def test_an_answer_is_told_and_shown(
    show: Command, checkpoint: Path, clip: Path, folder: Path
) -> None:
    said = show(clip, "--ask", QUESTION)
    qa = vzvideo.load(
        str(checkpoint), device="cpu", cache=False, frames=4, tokens_per_frame=5, max_new_tokens=6
    )
    tokens = qa.encode(clip)
    answer = qa.ask(tokens, QUESTION)
    evidence = qa.evidence(tokens, answer)
    assert (said.status, said.out) == (0, f"{answer.text} [{evidence}]\nnumbers.html\n")
    reader = Reader((folder / "numbers.html").read_text("utf-8"))
    assert reader.data["evidence"] == pytest.approx(evidence.frames.tolist(), abs=1e-4)
    assert reader.all("p", **{"class": "answer"})[0][1] == answer.text


def test_json_alone_is_one_line_and_no_page(show: Command, clip: Path, folder: Path) -> None:
    said = show(clip, "--json")
    assert (said.status, said.err, files(folder)) == (0, "", [])
    (about,) = said.objects
    assert list(about) == [
        *("source", "model", "attention_by_layer", "budgets", "across_frames"),
        *("cosine_to_next_frame", "cosine_of_random_patches", "cropped", "frame_times_s"),
    ]
    assert (about["source"], about["frame_times_s"]) == (str(clip), [0.2, 0.6, 1.0, 1.4])
    assert [budget["tokens_per_frame"] for budget in about["budgets"]] == [5, 9, 17]
    assert len(about["cosine_to_next_frame"]) == 3
    assert about["cropped"] == 0.25


def test_json_with_an_answer_holds_its_evidence(show: Command, clip: Path) -> None:
    said = show(clip, "--json", "--ask", QUESTION)
    (about,) = said.objects
    assert about["question"] == QUESTION
    assert about["answer"]
    assert len(about["evidence_frames"]) == 4
    assert sum(about["evidence_frames"]) == pytest.approx(1, abs=1e-3)
    assert all(begun <= ended for begun, ended in about["evidence_s"])


def test_json_and_files_together_keep_stdout_clean(show: Command, clip: Path, folder: Path) -> None:
    said = show(clip, "--json", "-o", "page.html", "--png", "sheet.png")
    assert said.status == 0
    assert len(said.objects) == 1
    assert said.err == "page.html\nsheet.png\n"
    assert files(folder) == ["page.html", "sheet.png"]


def test_a_sheet_comes_without_a_page(show: Command, clip: Path, folder: Path) -> None:
    said = show(clip, "--png", "sheet.png", "--ask", QUESTION)
    assert said.status == 0
    assert said.out.endswith("]\nsheet.png\n")
    assert files(folder) == ["sheet.png"]
    image = Image.open(folder / "sheet.png")
    assert (image.format, image.mode) == ("PNG", "RGB")


def test_one_frame(show: Command, folder: Path) -> None:
    kind = clips.Kind("one", ".mp4", frames=1)
    kind.make(kind, folder / "one.mp4")
    said = show("one.mp4", "--ask", QUESTION, "-o", "page.html", "--png", "one.png", "--json")
    assert said.status == 0, said.err
    (about,) = said.objects
    assert about["cosine_to_next_frame"] == about["evidence_s"] == []
    assert about["evidence_frames"] == [1]


def test_a_clip_of_a_video(show: Command, clip: Path) -> None:
    (about,) = show(clip, "--json", "--start", "0:00.8", "--end", "1.2").objects
    assert 0.8 <= min(about["frame_times_s"]) <= max(about["frame_times_s"]) < 1.2


@pytest.mark.parametrize(
    "name",
    [
        "</title><script>alert(1)<", '"><img src=x onerror=alert(1)>', "@data@", "-o", "what?",
        "\u202e \u0645 \u4e2d \U0001f3ac", "one\ntwo", " ", "...", "%s {0}",
    ],
)  # fmt: skip
def test_hostile_names(show: Command, clip: Path, folder: Path, name: str) -> None:
    video = folder / f"{name.replace('/', '')}.mp4"
    video.write_bytes(clip.read_bytes())
    said = show(f"./{video.name}")
    assert said.status == 0, said.err
    (page,) = (path for path in folder.iterdir() if path != video)
    assert page.suffix == ".html"
    reader = Reader(page.read_text("utf-8"))
    assert reader.all("h1")[0][1] == video.name
    assert len(reader.all("script")) == 2
    assert reader.all("img") == []


# -- what cannot be


REFUSED: dict[str, tuple[str, str]] = {
    "no file": ("none.mp4", "none.mp4: no such file"),
    "a folder": ("sub", "a folder; give a video file"),
    "no video": ("text.mp4", "not a video"),
    "no page's folder": ("{clip} -o missing/page.html", "there is no folder missing"),
    "no sheet's folder": ("{clip} --png missing/sheet.png", "there is no folder missing"),
    "a page that is a folder": ("{clip} -o sub", "sub: is a folder"),
    "a sheet that is a folder": ("{clip} --png sub.png", "sub.png: is a folder"),
    "a page of another kind": ("{clip} -o page.png", "name it .html; `--png` writes a picture"),
    "a sheet of another kind": ("{clip} --png sheet.jpg", "name it .png"),
    "nothing to compress": ("{clip} --no-compress", "--no-compress: show is about"),
    "more than a frame has": ("{clip} --tokens-per-frame 18", "a frame of this model has 17"),
    "half a split": ("{clip} --dominant 3", "give both or neither"),
    "no frames": ("{clip} --frames 0", "frames: 0 given"),
    "two questions": ("{clip} --ask Who? --ask Where?", "2 given"),
    "control words": ("{clip} --ask <video>", "control words"),
    "model": ("{clip} --model minni", "Did you mean mini?"),
    "late start": ("{clip} --start 1:00", "the clip from 60 s to the end"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_refusal_is_one_line_and_leaves_nothing(
    vz: Command, checkpoint: Path, clip: Path, folder: Path, case: str
) -> None:
    (folder / "sub").mkdir()
    (folder / "sub.png").mkdir()
    (folder / "text.mp4").write_text("once upon a time")
    template, told = REFUSED[case]
    video, *options = template.format(clip=clip).split()
    said = vz("show", video, "--model", checkpoint, *options)
    assert (said.status, said.out) == (1, "")
    assert said.line.startswith("vzvideo: ")
    assert told in said.line
    assert files(folder) == ["sub", "sub.png", "text.mp4"]


def test_tokens_have_nothing_to_show(
    vz: Command, show: Command, checkpoint: Path, clip: Path
) -> None:
    assert vz("encode", clip, "-o", "kept.vz.safetensors", "--model", checkpoint).status == 0
    said = show("kept.vz.safetensors")
    assert (said.status, said.out) == (1, "")
    assert "kept.vz.safetensors" in said.line
    assert "give the video" in said.line


def test_tokens_are_called_tokens(vz: Command, show: Command, checkpoint: Path, clip: Path) -> None:
    vz("encode", clip, "-o", "kept.vz.safetensors", "--model", checkpoint)
    assert "tokens" in show("kept.vz.safetensors").line


@pytest.mark.parametrize("link", [False, True])
def test_the_video_is_never_overwritten(
    show: Command, clip: Path, folder: Path, link: bool
) -> None:
    video = folder / "film.mp4"
    video.write_bytes(clip.read_bytes())
    target = folder / "page.html" if link else video
    if link:
        target.symlink_to(video)
    said = show(video, "-o", target)
    assert video.read_bytes() == clip.read_bytes()
    assert said.status == 1


def test_page_and_sheet_need_two_names(show: Command, clip: Path) -> None:
    assert show(clip, "-o", "both.png", "--png", "both.png").status == 1


def test_an_empty_question_is_refused(show: Command, clip: Path) -> None:
    said = show(clip, "--ask", "", "--json")
    assert said.status == 1
    assert "the question is empty" in said.line


@pytest.mark.parametrize("option", ["-o", "--png"])
def test_what_cannot_be_written_is_no_bug(show: Command, clip: Path, option: str) -> None:
    said = show(clip, option, "/proc/x.png")
    assert said.status == 1
    assert "bug" not in said.line


def test_a_name_that_is_no_text(show: Command, clip: Path, folder: Path) -> None:
    name = os.fsdecode(b"\xff\xfe.mp4")
    Path(name).write_bytes(clip.read_bytes())
    said = show(name, "-o", "page.html")
    assert said.status == 0, said.err
    assert (folder / "page.html").stat().st_size > 1000


def test_a_long_question_leaves_room_as_it_does_for_ask(
    vz: Command, checkpoint: Path, clip: Path
) -> None:
    question = "Who is there? " * 80
    options = ("--model", checkpoint, "--tokens-per-frame", "17", "--max-new-tokens", "6")
    asked = vz("ask", clip, question, *options)
    shown = vz("show", clip, "--ask", question, "--json", *options)
    assert (asked.status, shown.status) == (0, 0), shown.err


def test_what_is_there_and_no_page_is_left_alone(show: Command, clip: Path, folder: Path) -> None:
    for name, option in (("numbers.html", ""), ("notes.txt", "-o"), ("photo.png", "--png")):
        (folder / name).write_text("by hand")
        said = show(clip, *([option, name] if option else []))
        assert (said.status, said.out) == (1, "")
        assert f"{name}: is there, and no" in said.line
        assert (folder / name).read_text() == "by hand"


def test_a_pipe_as_target_is_not_waited_for(folder: Path) -> None:
    pipe = folder / "pipe.html"
    os.mkfifo(pipe)

    def check() -> None:
        with suppress(SettingsError):
            cli_show._check(pipe, b"mark", "page")

    checking = threading.Thread(target=check, daemon=True)
    checking.start()
    checking.join(timeout=2)
    waits = checking.is_alive()
    if waits:
        os.close(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK))  # lets it go
    assert not waits


def test_help_names_the_options(vz: Command) -> None:
    said = vz("show", "--help")
    assert said.status == 0
    assert all(option in said.out for option in ("--out", "--ask", "--png", "--json", "--frames"))


def test_a_wrong_name_costs_no_imports() -> None:
    mistyped = (
        "from vzvideo.cli.main import main\n"
        "try: main(['show', 'none.mp4'])\n"
        "except SystemExit: pass"
    )
    assert not imported_by(mistyped) & {"torch", "transformers", "av", "PIL"}


def test_without_a_question_only_the_tower_is_loaded(
    show: Command, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vzvideo.qa import loading

    loaded: list[Any] = []
    load = loading.load

    def noted(*args: Any, **options: Any) -> Any:
        loaded.append(options["part"])
        return load(*args, **options)

    monkeypatch.setattr(loading, "load", noted)
    assert show(clip, "--json").status == show(clip, "--json", "--ask", OTHER).status == 0
    assert loaded == ["tower", "both"]


def test_numbers_are_the_same_every_time(show: Command, clip: Path) -> None:
    assert json.loads(show(clip, "--json").out) == json.loads(show(clip, "--json").out)
