"""Question files: what each format becomes, and that a wrong file is refused in one line."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vzvideo.errors import SettingsError
from vzvideo.evaluation.questions import FORMATS, Question, read


def lines(folder: Path, *rows: Any, name: str = "mine.jsonl") -> Path:
    texts = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    return written(folder / name, "".join(f"{text}\n" for text in texts))


def listed(folder: Path, *rows: Any, name: str) -> Path:
    return written(folder / name, json.dumps(rows))


def table(folder: Path, *rows: str, name: str, between: str = "\t") -> Path:
    """Rows with "|" between their cells."""
    return written(folder / name, "".join(row.replace("|", between) + "\n" for row in rows))


def written(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def touched(path: Path) -> str:
    written(path, "")
    return str(path)


def refused(path: Path, format: str | None = None, **more: Any) -> str:
    with pytest.raises(SettingsError) as caught:
        read(path, format=format, **more)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    return message


def row(**fields: Any) -> dict[str, Any]:
    base = {"video": "a.mp4", "question": "What is it?", "answer": "a dog"} | fields
    return {name: value for name, value in base.items() if value is not ...}


def test_needs_neither_torch_nor_pyarrow() -> None:
    code = (
        "import sys; sys.modules.update(dict.fromkeys(['torch', 'transformers', 'pyarrow']));"
        "import vzvideo.evaluation.questions"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_jsonl_with_all_it_can_say(tmp_path: Path) -> None:
    path = lines(
        tmp_path,
        row(),
        "",
        row(id=7, video="/far/b.mp4", answer=..., answers=["x", "y"], kind="k", metric="caption"),
        row(id="z", video="https://host/c.mp4", options=["a dog", "a cat"], start_s=1, end_s=2.5),
        row(options=["a dog", "a cat"], metric="exact", kind=None),
    )
    asked = "What is it?"
    assert read(path) == [
        Question("1", str(tmp_path / "a.mp4"), asked, ("a dog",)),
        Question("7", "/far/b.mp4", asked, ("x", "y"), (), "k", "caption"),
        Question(
            "z",
            "https://host/c.mp4",
            asked,
            ("a dog",),
            ("a dog", "a cat"),
            "all",
            "choice",
            1,
            2.5,
        ),
        Question("5", str(tmp_path / "a.mp4"), asked, ("a dog",), ("a dog", "a cat")),
    ]
    (tmp_path / "elsewhere").mkdir()
    moved = read(path, format="jsonl", videos=tmp_path / "elsewhere")
    assert [q.video for q in moved[:2]] == [str(tmp_path / "elsewhere" / "a.mp4"), "/far/b.mp4"]


def test_an_option_may_be_named_by_its_number(tmp_path: Path) -> None:
    (question,) = read(lines(tmp_path, row(options=["a cat", " a dog "], answer=2)))
    assert (question.answers, question.metric) == (("a dog",), "choice")


def test_line_breaks_within_a_text_break_no_line(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    content = json.dumps(row(question="one\u2028two\u0085 naïve"), ensure_ascii=False)
    path.write_bytes(b"\xef\xbb\xbf" + content.encode() + b"\r\n" + content.encode())
    questions = read(path)
    assert [q.id for q in questions] == ["1", "2"]
    assert questions[0].question == "one\u2028two\u0085 naïve"


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ("{", "no JSON"),
        ("[" * 100_000, "no JSON"),
        ("3", "an object is expected"),
        (row(vidoe="b"), "unknown field 'vidoe': did you mean 'video'"),
        (row(zzz=1), "unknown field 'zzz': there are id, video"),
        (row(video=...), "video is missing"),
        (row(video=3), "video: 3 given, text is needed"),
        (row(question=" "), "question is empty"),
        (row(question=None), "question is missing"),
        (row(answer=...), "answer or answers: give one"),
        (row(answers=["x"]), "answer or answers: give one"),
        (row(answer=3), "answer: 3 given, text is needed"),
        (row(answer=""), "answer is empty"),
        (row(answer=..., answers=[]), "answers: [] given, a list of texts is needed"),
        (row(answer=..., answers="x"), "answers: 'x' given, a list of texts is needed"),
        (row(answer=..., answers=["x", ""]), "answers: one of them is empty"),
        (row(options=["a dog"]), "options: at least two"),
        (
            row(options=["a dog", "a dog", "b"]),
            "options: at least two are needed, none of them twi",
        ),
        (row(options=["b", "c"]), "answer 'a dog' is none of the 2 options"),
        (row(options=["b", "c"], answer=0), "answer: option 0 given, 1..2 are there"),
        (row(options=["b", "c"], answer=3), "answer: option 3 given, 1..2 are there"),
        (row(metric="bleu"), "metric: 'bleu' given, exact, choice, caption are allowed"),
        (row(metric="choice"), "metric: choice needs options"),
        (row(id=True), "id: True given, text or a whole number is needed"),
        (row(start_s="1"), "start_s: '1' given, a number is needed"),
        (row(end_s=float("nan")), "end_s: nan given, a number is needed"),
        (row(end_s=10**400), "a number is needed"),
        (row(start_s=-1), "a start from 0"),
        (row(start_s=3, end_s=3), "an end after it"),
        (row(id="1"), "id '1' is that of line 1, too"),
    ],
)
def test_a_wrong_line_is_told_with_its_number(tmp_path: Path, wrong: Any, told: str) -> None:
    path = lines(tmp_path, row(), "", wrong)
    message = refused(path)
    assert message.startswith(f"{path}: line 3: ")
    assert told in message
    assert "; " not in message  # and nothing else


def test_all_problems_are_counted_and_the_first_five_spelled_out(tmp_path: Path) -> None:
    bad = [row(question="", answer=3) for _ in range(4)]
    message = refused(lines(tmp_path, *bad))
    assert re.findall(r"line \d", message) == ["line 1", "line 1", "line 2", "line 2", "line 3"]
    assert message.endswith("; and 3 more")
    message = refused(lines(tmp_path, row(question=""), row(), row(video="", metric="choice"), "?"))
    assert re.findall(r"line \d", message) == ["line 1", "line 3", "line 3", "line 4"]
    assert "more" not in message
    five = refused(lines(tmp_path, *bad[:2], row(question="")))
    assert five.count("line") == 5
    assert "more" not in five


@pytest.mark.parametrize("content", [b"", b"\n \n"])
def test_a_file_without_questions(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "mine.jsonl").write_bytes(content)
    assert refused(tmp_path / "mine.jsonl").endswith("mine.jsonl: holds no questions")
    (tmp_path / "mine.json").write_bytes(content)
    assert "no JSON" in refused(tmp_path / "mine.json", "msvd-qa")
    (tmp_path / "mine.csv").write_bytes(content)
    assert "columns video, question, answer, qid, type" in refused(tmp_path / "mine.csv", "next-qa")


def test_lists_and_tables_without_rows(tmp_path: Path) -> None:
    header = "video,question,answer,qid,type"
    for path, format in [
        (listed(tmp_path, name="a.json"), "msrvtt-qa"),
        (table(tmp_path, header, name="a.csv"), "next-qa"),
        (tmp_path, "tgif-qa"),
    ]:
        if path == tmp_path:
            assert "directory" in refused(path, format)
        else:
            assert refused(path, format) == f"{path}: holds no questions"
    (tmp_path / "none").mkdir()
    assert "holds no questions" in refused(tmp_path / "none", "mvbench")


def test_another_encoding_is_told_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_bytes(json.dumps(row()).encode() + b"\n" + "{caf\xe9}".encode("latin-1"))
    assert refused(path) == f"{path}: line 2: not in UTF-8, which is needed"


def test_a_format_that_is_not_known_or_not_told(tmp_path: Path) -> None:
    path = listed(tmp_path, name="test.json")
    assert all(name in refused(path) for name in FORMATS)
    assert "did you mean 'msvd-qa'" in refused(path, "msvd_qa")
    assert str(tmp_path / "not.jsonl") in refused(tmp_path / "not.jsonl")
    assert "not a folder" in refused(lines(tmp_path, row()), videos=tmp_path / "none")


def asked(number: int, **fields: Any) -> dict[str, Any]:
    return {"id": number, "video_id": 1, "question": "who runs?", "answer": "man"} | fields


def test_msvd_finds_videos_by_number_and_by_youtube_name(tmp_path: Path) -> None:
    path = listed(
        tmp_path / "qa",
        asked(0),
        asked(1, video_id=2, question="What is it?"),
        asked(2, video_id=9, question="is it?"),
        name="test_qa.json",
    )
    videos = tmp_path / "videos"
    first = touched(videos / "vid1.mp4")
    found = read(path, format="msvd-qa", videos=videos)
    assert found[0] == Question("0", first, "who runs?", ("man",), (), "who")
    assert [q.kind for q in found] == ["who", "what", "other"]
    assert [q.video for q in found[1:]] == [str(videos / f"vid{n}.avi") for n in (2, 9)]
    second = touched(videos / "Xy_1_5.webm")
    for folder in (tmp_path / "qa", tmp_path, videos):
        mapping = written(
            folder / "youtube_mapping.txt", "Ab_3_4 vid1\r\nXy_1_5 vid2\n\nQ_1_2 vid9"
        )
        found = read(path, format="msvd-qa", videos=videos)
        assert [q.video for q in found] == [first, second, str(videos / "Q_1_2.avi")]
        mapping.unlink()


def test_msrvtt(tmp_path: Path) -> None:
    path = listed(tmp_path, asked(5, category_id=3, video_id=6513), name="test_qa.json")
    (question,) = read(path, format="msrvtt-qa")
    assert question == Question(
        "5", str(tmp_path / "video6513.mp4"), "who runs?", ("man",), (), "who"
    )
    webm = touched(tmp_path / "video6513.webm")
    assert read(path, format="msrvtt-qa")[0].video == webm


def test_what_is_wrong_in_a_list(tmp_path: Path) -> None:
    path = listed(
        tmp_path, asked(1), 3, asked(1), asked(2, video_id=None), asked(3, answer=[]), name="q.json"
    )
    message = refused(path, "msvd-qa")
    assert message.startswith(
        f"{path}: entry 2: an object is expected; entry 3: id '1' is that of "
    )
    assert "entry 4: video_id is missing; entry 5: answer: [] given" in message
    assert "a list of objects" in refused(written(path, "{}"), "msrvtt-qa")


MANY = "gif_name|question|a1|a2|a3|a4|a5|answer|vid_id|key"


def test_tgif_knows_its_sorts(tmp_path: Path) -> None:
    gif, mp4 = touched(tmp_path / "g1.gif"), touched(tmp_path / "g2.mp4")
    frame = table(
        tmp_path,
        "gif_name|question|answer|type|vid_id|key|description",
        "g1|what is it ?|cat|0|FRAMEQA7|12|a cat sits",
        "g2|how many ?|two|1|FRAMEQA8|13|two cats",
        name="Test_frameqa_question.csv",
    )
    assert read(frame, format="tgif-qa") == [
        Question("FRAMEQA7", gif, "what is it ?", ("cat",), (), "frameqa"),
        Question("FRAMEQA8", mp4, "how many ?", ("two",), (), "frameqa"),
    ]
    head = "gif_name|question|answer|vid_id|key"
    count = table(tmp_path, head, "g3|How many times ?|3|COUNT1|5", name="Test_count.tsv")
    assert read(count, format="tgif-qa") == [
        Question("COUNT1", str(tmp_path / "g3.gif"), "How many times ?", ("3",), (), "count")
    ]
    for name, kind in (("Test_action_q.csv", "action"), ("Test_transition_q.csv", "transition")):
        choice = table(tmp_path, MANY, "g1|What ?|a|b|c|d|e|4|X1|5", name=name)
        assert read(choice, format="tgif-qa") == [
            Question("X1", gif, "What ?", ("e",), ("a", "b", "c", "d", "e"), kind, "choice")
        ]


def test_what_is_wrong_in_tgif(tmp_path: Path) -> None:
    path = table(
        tmp_path,
        MANY,
        "g|What ?|a|b|c|d|e|5|X1|5",
        "g|What ?|a||c|d|e|0|X2|5",
        "g|What ?|a|b|c|d|e|0",
        "g|What ?|a|b|c|d|e|0|X3|5|more",
        name="Test_action.csv",
    )
    message = refused(path, "tgif-qa")
    assert "line 2: answer: '5' given, 0..4 are allowed; line 3: a2 is empty" in message
    assert "line 4: vid_id is missing; line 5: more cells than columns" in message
    comma = table(tmp_path, MANY, name="Test_action.csv", between=",")
    assert "columns gif_name, question, answer, vid_id are missing" in refused(comma, "tgif-qa")
    head = "gif_name|question|answer|vid_id|key"
    count = table(tmp_path, head, "g|How ?|many|COUNT1|5", name="Test_count.csv")
    assert "answer: 'many' given, a whole number" in refused(count, "tgif-qa")


def test_activitynet_takes_answers_from_the_file_beside(tmp_path: Path) -> None:
    questions = [
        {"video_name": f"n{i}", "question": "is it", "question_id": f"v_n{i}_1"} for i in range(9)
    ]
    answers = [{"answer": "yes", "type": i, "question_id": f"v_n{i}_1"} for i in range(9)]
    path = listed(tmp_path, *questions, name="test_q.json")
    assert str(tmp_path / "test_a.json") in refused(path, "activitynet-qa")
    listed(tmp_path, *reversed(answers), name="test_a.json")
    plain, other = touched(tmp_path / "n0.mp4"), touched(tmp_path / "v_n1.mkv")
    found = read(path, format="activitynet-qa")
    assert [q.video for q in found[:3]] == [plain, other, str(tmp_path / "v_n2.mp4")]
    assert found[0] == Question("v_n0_1", plain, "is it", ("yes",), (), "motion")
    assert [q.kind for q in found[1:4]] == ["spatial", "temporal", "yes/no"]
    assert [q.kind for q in found[4:]] == ["colour", "object", "location", "number", "other"]

    listed(tmp_path, answers[0] | {"type": 9}, *answers[2:], 3, name="test_a.json")
    message = refused(path, "activitynet-qa")
    assert "entry 1: type: '9' given, 0..8 are allowed" in message
    assert "entry 2: question_id 'v_n1_1' has no answer in test_a.json" in message
    assert "test_q.json is needed" in refused(listed(tmp_path, name="x.json"), "activitynet-qa")


NEXT = "video,frame_count,width,height,question,answer,qid,type"


def test_next_with_choices(tmp_path: Path) -> None:
    path = table(
        tmp_path,
        NEXT + ",a0,a1,a2,a3,a4",
        '11,9,6,4,"why, then",2,6,CH,p,q,"r, s",p,u',
        "12,9,6,4,what,0,6,TN,p,q,r,s,u",
        "11,9,6,4,where,4,7,DL,p,q,r,s,u",
        name="val.csv",
        between="|",
    )
    first, second, third = read(path, format="next-qa")
    options = ("p", "q", "r, s", "p", "u")  # that two are alike is no reason to refuse a benchmark
    video = str(tmp_path / "11.mp4")
    assert first == Question("11_6", video, "why, then", ("r, s",), options, "causal", "choice")
    assert (second.kind, third.kind) == ("temporal", "descriptive")
    assert (second.answers, third.answers) == (("p",), ("u",))
    videos = tmp_path / "NExTVideo"
    there = touched(videos / "1164" / "12.mp4")
    written(tmp_path / "map_vid_vidorID.json", json.dumps({"11": "0001/11", "12": "1164/12"}))
    found = read(path, format="next-qa", videos=videos)
    assert [q.video for q in found[:2]] == [str(videos / "0001" / "11.mp4"), there]


def test_next_open_ended_takes_second_answers(tmp_path: Path) -> None:
    rows = ["11,9,6,4,is it,no,4,DB", "11,9,6,4,how many,two,5,DC"]
    path = table(tmp_path, NEXT, *rows, name="test.csv", between="|")
    found = read(path, format="next-qa")
    assert [(q.answers, q.metric) for q in found] == [(("no",), "exact"), (("two",), "exact")]
    second = {"11": {"4": "never ", "5": "two"}, "12": 3}
    written(tmp_path / "add_reference_answer_test.json", json.dumps(second))
    assert [q.answers for q in read(path, format="next-qa")] == [("no", "never"), ("two",)]
    column = table(
        tmp_path,
        NEXT + ",additional_ref_answer",
        rows[0] + ",nope",
        rows[1] + ",",
        name="x.csv",
        between="|",
    )
    assert [q.answers for q in read(column, format="next-qa")] == [("no", "nope"), ("two",)]


def test_what_is_wrong_in_next(tmp_path: Path) -> None:
    path = table(
        tmp_path,
        NEXT + ",a0,a1,a2,a3,a4",
        "11,9,6,4,why,5,6,CH,p,q,r,s,u",
        "11,9,6,4,why,0,7,XX,p,q,r,s,u",
        "11,9,6,4,why,1,8,CW,p,q,r,s,u",
        "11,9,6,4,why,1,8,CW,p,q,r,s,u",
        name="val.csv",
        between="|",
    )
    message = refused(path, "next-qa")
    assert "line 2: answer: '5' given, 0..4 are allowed" in message
    assert "line 3: type: 'XX' given, C.., T.. or D.. are allowed" in message
    assert "line 5: id '11_8' is that of line 4, too" in message


def picked(video: str, **fields: Any) -> dict[str, Any]:
    return {"video": video, "question": "Which?", "candidates": ["x", "y"], "answer": "y"} | fields


def test_mvbench_searches_below_the_folder(tmp_path: Path) -> None:
    json_files, videos = tmp_path / "json", tmp_path / "video"
    listed(json_files, picked("P.mp4", start=1.5, end=3), name="action_sequence.json")
    listed(json_files, picked("video_1.mp4"), picked("v/a.webm"), name="moving_count.json")
    listed(json_files, picked("video_1.mp4"), name="action_count.json")
    star = touched(videos / "star" / "Charades" / "P.mp4")
    clevrer = touched(videos / "clevrer" / "video_1.mp4")
    perception = touched(videos / "perception" / "videos" / "video_1.mp4")
    tail = touched(videos / "k" / "v" / "a.webm")
    touched(videos / "k" / "w" / "a.webm")
    found = read(json_files, format="mvbench", videos=videos)
    ids = ["action_count-1", "action_sequence-1", "moving_count-1", "moving_count-2"]
    assert [q.id for q in found] == ids
    assert [q.video for q in found] == [perception, star, clevrer, tail]
    assert found[1] == Question(
        ids[1], star, "Which?", ("y",), ("x", "y"), "action_sequence", "choice", 1.5, 3.0
    )
    assert read(json_files / "action_sequence.json", format="mvbench", videos=videos) == [found[1]]
    direct = read(json_files / "action_count.json", format="mvbench", videos=videos / "clevrer")
    assert direct[0].video == clevrer


def test_mvbench_takes_no_video_that_may_be_another(tmp_path: Path) -> None:
    path = listed(tmp_path, picked("a.mp4"), picked("b.mp4"), name="task.json")
    touched(tmp_path / "one" / "a.mp4")
    touched(tmp_path / "two" / "a.mp4")
    found = read(path, format="mvbench")
    assert [q.video for q in found] == [str(tmp_path / "a.mp4"), str(tmp_path / "b.mp4")]


def test_what_is_wrong_in_mvbench(tmp_path: Path) -> None:
    listed(tmp_path, picked("a", answer="z"), picked("b", candidates="xy"), name="t.json")
    listed(tmp_path, picked("a", start="0"), name="u.json")
    message = refused(tmp_path, "mvbench")
    assert "t.json entry 1: answer 'z' is none of the 2 options" in message
    assert "t.json entry 2: candidates: 'xy' given, a list of texts is needed" in message
    assert "u.json entry 1: start: '0' given, a number is needed" in message


def mme(**fields: Any) -> dict[str, Any]:
    base = {"video_id": "001", "duration": "short", "domain": "Knowledge", "videoID": "fFj"}
    options = ["A. Apples.", "B. A. Smith", "C. 3", "D. Both."]
    asked = {"question_id": "001-1", "question": "Which?", "options": options, "answer": "C"}
    return base | asked | fields


def parquet(path: Path, *rows: dict[str, Any]) -> Path:
    pq.write_table(pa.Table.from_pylist(list(rows)), path)
    return path


def test_video_mme(tmp_path: Path) -> None:
    mkv = touched(tmp_path / "fFj.mkv")
    rows = [mme(), mme(question_id="001-2", videoID="other", duration="long", answer="B")]
    path = parquet(tmp_path / "test.parquet", *rows)
    found = read(path, format="video-mme")
    options = ("Apples.", "A. Smith", "3", "Both.")
    assert found == [
        Question("001-1", mkv, "Which?", ("3",), options, "short", "choice"),
        Question(
            "001-2",
            str(tmp_path / "other.mp4"),
            "Which?",
            ("A. Smith",),
            options,
            "long",
            "choice",
        ),
    ]
    assert read(listed(tmp_path, *rows, name="flat.json"), format="video-mme") == found
    outer = {name: mme()[name] for name in ("video_id", "duration", "domain")}
    inner = [{name: mme()[name] for name in ("question_id", "question", "options", "answer")}]
    nested = listed(tmp_path, outer | {"questions": inner}, name="nested.json")
    (question,) = read(nested, format="video-mme")
    assert question == Question(
        "001-1", str(tmp_path / "001.mp4"), "Which?", ("3",), options, "short", "choice"
    )


def test_what_is_wrong_in_video_mme(tmp_path: Path) -> None:
    wrong = [mme(answer="E"), mme(question_id="2", options=[]), mme(question_id="3", question=None)]
    message = refused(parquet(tmp_path / "a.parquet", *wrong), "video-mme")
    assert "row 1: answer: 'E' given, A..D are allowed" in message
    assert "row 2: options: [] given, a list of texts is needed" in message
    assert "row 3: question is missing" in message
    path = parquet(tmp_path / "b.parquet", {"question": "x"})
    assert "columns duration, videoID, question_id, options, answer are" in refused(
        path, "video-mme"
    )
    (tmp_path / "c.parquet").write_bytes(b"no parquet")
    assert "not readable as parquet" in refused(tmp_path / "c.parquet", "video-mme")
    assert "not readable as parquet" in refused(tmp_path / "none.parquet", "video-mme")
    nested = listed(tmp_path, mme(), {"questions": [3]}, name="n.json")
    assert refused(nested, "video-mme") == f"{nested}: entry 2.1: an object is expected"
