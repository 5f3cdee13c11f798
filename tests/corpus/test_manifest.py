"""What a manifest or patterns become, and that all that is wrong with one is told at once."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vzvideo.corpus.manifest import Task, merge_tasks, read, tasks_from_videos
from vzvideo.errors import SettingsError
from vzvideo.words import pluralize

COLUMNS = ("id", "video", "question", "start_s", "end_s")


def row(**fields: Any) -> dict[str, Any]:
    base = {"id": "a", "video": "a.mp4", "question": "What is it?"} | fields
    return {name: value for name, value in base.items() if value is not ...}


def jsonl(path: Path, *rows: Any) -> str:
    texts = [each if isinstance(each, str) else json.dumps(each) for each in rows]
    path.write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
    return str(path)


def table(path: Path, *rows: dict[str, Any]) -> str:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, COLUMNS)
    writer.writeheader()
    writer.writerows(rows)
    path.write_text(text.getvalue(), encoding="utf-8", newline="")
    return str(path)


def parquet(path: Path, *rows: dict[str, Any]) -> str:
    pq.write_table(pa.Table.from_pylist(list(rows)), path)
    return str(path)


def problems(path: str) -> list[str]:
    """The lines of the error, without the first, which names the file and counts them."""
    with pytest.raises(SettingsError) as caught:
        read(path)
    head, *told = str(caught.value).splitlines()
    if told:
        shown = len([line for line in told if not line.strip().startswith("and ")])
        assert head.startswith(f"{path}: ")
        assert head == f"{path}: {pluralize(shown, 'problem')}" or shown == 20
    return [line.strip() for line in told] or [head]


# -- a manifest


def test_jsonl_csv_and_parquet_give_the_same_tasks(tmp_path: Path) -> None:
    rows = [
        row(id="1", start_s=None, end_s=None),
        row(id="2", video="b, c.mp4", question='Who says "no"?', start_s=1.0, end_s=2.5),
        row(id="3", question="Über was,\nund wo?", start_s=None, end_s=None),
    ]
    expected = [
        Task(
            str(tmp_path / "a.mp4"),
            None,
            None,
            (("1", "What is it?"), ("3", "Über was,\nund wo?")),
        ),
        Task(str(tmp_path / "b, c.mp4"), 1.0, 2.5, (("2", 'Who says "no"?'),)),
    ]
    assert read(jsonl(tmp_path / "m.jsonl", *rows)) == expected
    assert read(jsonl(tmp_path / "m.NDJSON", *rows)) == expected
    assert read(table(tmp_path / "m.csv", *rows)) == expected
    assert read(parquet(tmp_path / "m.parquet", *rows)) == expected
    assert read(parquet(tmp_path / "m.pq", *rows)) == expected


@pytest.mark.parametrize("write", [jsonl, parquet])
def test_a_list_of_questions_gets_numbered_ids(tmp_path: Path, write: Any) -> None:
    name = "m.jsonl" if write is jsonl else "m.parquet"
    (task,) = read(write(tmp_path / name, row(question=["What?", " Who? "])))
    assert task.asked == (("a#1", "What?"), ("a#2", "Who?"))


def test_rows_of_one_part_become_one_task_in_their_order(tmp_path: Path) -> None:
    path = jsonl(
        tmp_path / "m.jsonl",
        row(id="z", start_s=1),
        row(id="b"),
        row(id=3, video="./a.mp4"),
        row(id="y", start_s=1, end_s=2),
        row(id="a", start_s=1.0),
    )
    tasks = read(path)
    assert [[name for name, _ in task.asked] for task in tasks] == [["z", "a"], ["b", "3"], ["y"]]
    video = str(tmp_path / "a.mp4")
    assert [task.place for task in tasks] == [(video, 1, None), (video, None, None), (video, 1, 2)]


def test_relative_videos_count_from_the_manifest_and_others_are_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = ["sub/a.mp4", "/far/b.mp4", "s3://bucket/c.mp4", "https://host/d.mp4?x=1"]
    path = tmp_path / "m.jsonl"
    jsonl(path, *(row(id=n, video=video) for n, video in enumerate(given)))
    rest = given[1:]
    assert [task.video for task in read(str(path))] == [str(tmp_path / "sub/a.mp4"), *rest]
    uri = path.as_uri()
    assert [task.video for task in read(uri)] == [f"{tmp_path.as_uri()}/sub/a.mp4", *rest]
    monkeypatch.chdir(tmp_path)
    assert [task.video for task in read("m.jsonl")] == given


def test_all_that_is_wrong_is_told_at_once_with_its_line(tmp_path: Path) -> None:
    path = jsonl(
        tmp_path / "m.jsonl",
        row(id="one"),
        "",
        row(id="one", video="b.mp4"),
        row(id="2", video=...),
        "{broken",
        row(id="3", start_s=-1),
        row(id="4", start_s=3, end_s=3),
        row(id="5", start_s=True),
        row(id="6", question=" "),
        row(id="7", question=["What?", ""]),
        row(id="8", question=[]),
        row(id=..., question=...),
        row(id="", video=7),
    )
    told = problems(path)
    starts = [line.partition(":")[0] for line in told]
    assert starts == [f"line {n}" for n in (3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 12, 13, 13)]
    assert told[0] == "line 3: id 'one' is that of line 1, too"
    assert told[1] == "line 4: video is missing"
    assert "no JSON" in told[2]
    assert "a start from 0" in told[3]
    assert "an end after it" in told[4]
    assert told[5] == "line 8: start_s: True given, a number is needed"
    assert told[6] == "line 9: question is empty"
    assert told[7] == "line 10: question: one of them is empty"
    assert told[8] == "line 11: question: [] given, a list of texts is needed"
    assert told[9:11] == ["line 12: id is missing", "line 12: question is missing"]
    assert told[11:] == ["line 13: id is empty", "line 13: video: 7 given, text is needed"]


def test_ids_made_from_a_list_must_be_unique_too(tmp_path: Path) -> None:
    rows = row(id="a#2"), row(id="a", question=["What?", "Who?"])
    assert problems(jsonl(tmp_path / "m.jsonl", *rows)) == [
        "line 2: id 'a#2' is that of line 1, too"
    ]
    assert problems(jsonl(tmp_path / "m.jsonl", row(id=7), row(id="7"))) == [
        "line 2: id '7' is that of line 1, too"
    ]


def test_twenty_problems_are_spelled_out_and_the_others_counted(tmp_path: Path) -> None:
    told = problems(jsonl(tmp_path / "m.jsonl", *["?"] * 23))
    assert [line.partition(":")[0] for line in told[:-1]] == [f"line {n}" for n in range(1, 21)]
    assert told[-1] == "and 3 more"
    assert "more" not in problems(jsonl(tmp_path / "m.jsonl", *["?"] * 20))[-1]


def test_a_quote_that_is_never_closed_swallows_no_rows(tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    path.write_text('id,video,question\n1,a.mp4,"Who?\n2,b.mp4,Where?\n')
    with pytest.raises(SettingsError, match="a quote is never closed"):
        read(str(path))


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    path.write_text("id,video,question,question\n1,a.mp4,Who?,Where?\n")
    with pytest.raises(SettingsError, match="two columns are called 'question'"):
        read(str(path))


def test_numbers_of_a_csv_are_written_as_text(tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    path.write_text("id,video,question,start_s,end_s,more\n07,a.mp4,What?, 1.5 ,1e1,x\n8,b,W?,,\n")
    assert read(str(path)) == [
        Task(str(tmp_path / "a.mp4"), 1.5, 10.0, (("07", "What?"),)),
        Task(str(tmp_path / "b"), None, None, (("8", "W?"),)),
    ]
    path.write_text("id,video,question,start_s\n1,a,W?,soon\n2,a,W?,nan\n3,a,W?,1,2\n")
    assert problems(str(path)) == [
        "line 2: start_s: 'soon' given, a number is needed",
        "line 3: start_s: nan given, a number is needed",
        "line 4: more cells than columns",
    ]


def test_a_column_that_is_missing_is_named(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("id;video;question\n1;a;W?\n")
    for path in (str(tmp_path / "m.csv"), parquet(tmp_path / "m.parquet", row(video=...))):
        (told,) = problems(path)
        assert told.startswith(f"{path}: columns ")
        assert "video" in told.partition(" are missing")[0]


def test_wrong_rows_of_parquet_are_told_with_their_number(tmp_path: Path) -> None:
    path = parquet(tmp_path / "m.parquet", row(id=1), row(id=2, video=None), row(id=1))
    assert problems(path) == ["row 2: video is missing", "row 3: id '1' is that of row 1, too"]


def test_a_byte_order_mark_is_no_part_of_the_first_name(tmp_path: Path) -> None:
    for path in (jsonl(tmp_path / "m.jsonl", row()), table(tmp_path / "m.csv", row())):
        Path(path).write_bytes(b"\xef\xbb\xbf" + Path(path).read_bytes())
        assert read(path) == [Task(str(tmp_path / "a.mp4"), None, None, (("a", "What is it?"),))]


def test_a_manifest_without_rows(tmp_path: Path) -> None:
    empty = parquet(tmp_path / "m.parquet", row())
    pq.write_table(pq.read_table(empty).slice(0, 0), empty)
    for path in (jsonl(tmp_path / "m.jsonl", " "), table(tmp_path / "m.csv"), empty):
        assert problems(path) == [f"{path}: holds no rows"]


def test_files_that_are_no_manifest(tmp_path: Path) -> None:
    path = tmp_path / "m.xlsx"
    (told,) = problems(str(path))
    assert told.startswith(f"{path}: no manifest, which is .jsonl, .csv or .parquet")
    for name in ("none.jsonl", "none.csv", "none.parquet"):
        (told,) = problems(str(tmp_path / name))
        assert told.startswith(str(tmp_path / name))
    assert "none.jsonl" in problems((tmp_path / "none.jsonl").as_uri())[0]
    (tmp_path / "m.parquet").write_text("id,video,question")
    assert "not readable as parquet" in problems(str(tmp_path / "m.parquet"))[0]


# -- patterns


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b.mp4", "a.MKV", "notes.txt", "sub/c.webm", "sub/deep/d.mp4", "sub/e.csv"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def found(folder: Path, *patterns: str) -> list[str]:
    return [
        task.video.removeprefix(f"{folder}/")
        for task in tasks_from_videos([f"{folder}/{p}" for p in patterns])
    ]


def test_a_folder_stands_for_all_videos_below_it(folder: Path) -> None:
    everything = ["a.MKV", "b.mp4", "sub/c.webm", "sub/deep/d.mp4"]
    assert found(folder, "") == everything
    assert [task.video for task in tasks_from_videos([str(folder)])] == [
        f"{folder}/{n}" for n in everything
    ]
    assert found(folder, "sub") == everything[2:]


def test_patterns_and_single_files(folder: Path) -> None:
    assert found(folder, "*.mp4") == ["b.mp4"]
    assert found(folder, "**/*.mp4") == ["b.mp4", "sub/deep/d.mp4"]
    assert found(folder, "sub/*/d.mp4") == ["sub/deep/d.mp4"]
    assert found(folder, "sub/c.webm") == ["sub/c.webm"]


def test_what_several_patterns_name_comes_once(folder: Path) -> None:
    patterns = ("sub/c.webm", "**/*.mp4", "", "b.mp4")
    assert found(folder, *patterns) == ["sub/c.webm", "b.mp4", "sub/deep/d.mp4", "a.MKV"]


def test_urls_are_taken_as_they_are(folder: Path) -> None:
    urls = ["https://host/a.mp4?x=[1]*", "rtsp://host/stream"]
    assert [task.video for task in tasks_from_videos([*urls, urls[0]])] == urls


def test_every_video_is_asked_every_question(folder: Path) -> None:
    video = str(folder / "b.mp4")
    (task,) = tasks_from_videos([video], ["Who?", "What?"])
    assert [question for _, question in task.asked] == ["Who?", "What?"]
    names = [name for name, _ in task.asked]
    assert all(name.startswith(f"{video}#") for name in names)
    assert len(set(names)) == 2
    # The same another day, whatever stands beside it.
    assert tasks_from_videos([video], ["Where?", "What?"])[0].asked[1] == task.asked[1]
    assert tasks_from_videos([video]) == [Task(video, None, None, ())]
    assert [task.asked[0][1] for task in tasks_from_videos([str(folder)], ["Who?"])] == ["Who?"] * 4


@pytest.mark.parametrize("pattern", ["none.mp4", "*.avi", "sub/none", "sub/none/**"])
def test_a_pattern_that_names_nothing_is_refused(folder: Path, pattern: str) -> None:
    for where in (str(folder), folder.as_uri()):
        with pytest.raises(SettingsError) as caught:
            tasks_from_videos([str(folder), f"{where}/{pattern}"])
        assert str(caught.value).startswith(f"{where}/{pattern}: no video there")


@pytest.mark.parametrize(
    ("questions", "told"), [(["Who?", " "], "is empty"), (["Who?", "What?", "Who?"], "given twice")]
)
def test_empty_and_double_questions_are_refused(
    folder: Path, questions: list[str], told: str
) -> None:
    with pytest.raises(SettingsError, match=told):
        tasks_from_videos([str(folder)], questions)


# -- tasks of others


def test_merged_tasks_have_each_part_once(tmp_path: Path) -> None:
    tasks = [
        Task("a", None, None, (("1", "Who?"), ("2", "What?"))),
        Task("b", None, None, (("3", "Who?"),)),
        Task("a", 1.0, None, (("4", "Who?"),)),
        Task("a", None, None, (("5", "Where?"),)),
    ]
    assert merge_tasks(tasks) == [
        Task("a", None, None, (("1", "Who?"), ("2", "What?"), ("5", "Where?"))),
        *tasks[1:3],
    ]
    with pytest.raises(SettingsError, match="'3' comes twice"):
        merge_tasks([*tasks, Task("c", None, None, (("3", "Who?"),))])
