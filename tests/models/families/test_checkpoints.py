"""Checkpoints of every family through our loader, asked from a real video file."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

import vzvideo
from tests.models.families import tiny
from tests.tolerances import LOGITS_F32
from tests.waiting import SLACK_S, until
from vzvideo.cli.main import main
from vzvideo.config import Settings
from vzvideo.corpus.estimate import estimate
from vzvideo.corpus.manifest import Task
from vzvideo.errors import SettingsError
from vzvideo.models import attribution, catalog, check, loader, weights
from vzvideo.models.encoder import NO_COMPRESSION, ZipSettings
from vzvideo.models.families import family_of
from vzvideo.models.prefix import Prefix, copy_cache
from vzvideo.qa.video_qa import VideoQA
from vzvideo.show.look import inspect_video
from vzvideo.types import FrameBatch, Role, VisualTokens
from vzvideo.video.frames import frames_of
from vzvideo.video.guarded import Guard

NAMES = [name for name in tiny.MODELS if name != "internvl_norm"]
pytestmark = pytest.mark.usefixtures("one_thread")
every_family = pytest.mark.parametrize("name", NAMES)
QUESTION = "What is the man doing?"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("families")
    return {name: tiny.write(name, root / name) for name in NAMES}


@pytest.fixture
def qa(name: str, folders: dict[str, Path], tmp_path: Path, monkeypatch: Any) -> VideoQA:
    monkeypatch.setenv("VZVIDEO_CACHE", str(tmp_path / "cache"))
    return vzvideo.load(str(folders[name]), device="cpu", tokens_per_frame=6, max_new_tokens=6)


def frames(clip: Path, qa: VideoQA, count: int) -> FrameBatch:
    recipe = qa.recipe(frames=count)
    with frames_of(str(clip), recipe.settings, recipe.frames, recipe.size) as found:
        batches = list(found.batches)
    return FrameBatch(
        np.concatenate([batch.pixels for batch in batches]),
        np.concatenate([batch.pts_s for batch in batches]),
    )


def own_arguments(qa: VideoQA, name: str, inputs: Tensor, ids: Tensor) -> dict[str, Any]:
    """How transformers' own forward is given preprocessed frames (T, 3, H, W)."""
    if name.startswith("qwen"):
        pixels, grid = qa.encoder.family.patches(inputs)  # type: ignore[attr-defined]
        given = {"pixel_values_videos": pixels, "video_grid_thw": grid}
        given["mm_token_type_ids"] = 2 * (ids == tiny.ID["<|video_pad|>"]).int()
        if name == "qwen2_5_vl":
            given["second_per_grid_ts"] = torch.tensor([0.8])  # between pairs, of 4 frames of 1.6 s
        return given
    if name in ("smolvlm", "idefics3"):
        return {"pixel_values": inputs[None]}
    if name in ("llava", "internvl"):
        return {"pixel_values": inputs}
    return {"pixel_values_videos": inputs[None]}


@every_family
@torch.inference_mode()
def test_uncompressed_logits_are_the_models_own_from_pixels(
    name: str, qa: VideoQA, clip: Path
) -> None:
    shown = frames(clip, qa, 4)
    tokens = qa.encoder.encode(shown, NO_COMPRESSION)
    prefix = qa.language.prefill(tokens)
    ids = qa.language.prompt_ids(prefix, QUESTION)
    inputs = qa.encoder.preprocess(torch.from_numpy(shown.pixels))
    model = tiny.model(name)
    if name == "llava_next":  # whose own forward takes no picture without tiles
        tower = model.model.vision_tower(inputs, output_hidden_states=True).hidden_states[-2]
        packed, _ = model.model.pack_image_features(
            list(model.model.multi_modal_projector(tower[:, 1:]).unsqueeze(1)),
            torch.tensor([[84, 84]] * 4), "default", model.model.image_newline,
        )  # fmt: skip
        embeds = model.get_input_embeddings()(ids)
        visual = (ids == tiny.ID["<image>"])[..., None]
        given: dict[str, Any] = {"inputs_embeds": embeds.masked_scatter(visual, torch.cat(packed))}
    else:
        given = {"input_ids": ids, **own_arguments(qa, name, inputs, ids)}
    expected = model(**given).logits[0, -1]
    found = qa.language.logits(prefix, QUESTION)
    torch.testing.assert_close(found, expected, atol=LOGITS_F32, rtol=0)
    assert expected.std() > 0.1
    # In one forward, as transformers does it, to the last bit.
    told = qa.language.handed(tokens, prefix, ids)
    logits = model(input_ids=ids, **told).logits[0, -1]
    assert torch.equal(logits, expected)


@every_family
@torch.inference_mode()
def test_compressed_logits_are_those_of_one_forward_over_what_is_kept(
    name: str, qa: VideoQA, clip: Path
) -> None:
    """As `hf` would shorten the whole prompt."""
    shown = frames(clip, qa, 4)
    settings = ZipSettings(4, 2, qa.encoder.family.merge)
    tokens = qa.encoder.encode(shown, settings)
    whole = qa.encoder.encode(shown, NO_COMPRESSION)
    each = len(tokens) // tokens.frames
    assert each == 6
    assert tokens.frames == (2 if name.startswith("qwen") else 4)
    prefix = qa.language.prefill(tokens)
    found = qa.language.logits(prefix, QUESTION)
    family, model = family_of(tiny.model(name)), tiny.model(name)
    ids = qa.language.prompt_ids(qa.language.prefill(whole), QUESTION)
    inputs = qa.encoder.preprocess(torch.from_numpy(shown.pixels))
    if name == "llava_next":
        return  # its pictures have tiles there
    given = {"input_ids": ids, **own_arguments(qa, name, inputs, ids)}
    own = {n: given[n] for n in family.arguments[family.shows] if n in given}
    short = family.tell(given, {family.shows: family.see(family.shows, own, settings)})
    expected = model(**short).logits[0, -1]
    torch.testing.assert_close(found, expected, atol=LOGITS_F32, rtol=0)
    assert torch.equal(short["input_ids"], qa.language.prompt_ids(prefix, QUESTION))


@every_family
def test_the_whole_house(name: str, qa: VideoQA, clip: Path, tmp_path: Path) -> None:
    answer = qa.ask(clip, QUESTION, frames=4)
    assert answer.text
    assert answer.tokens == 6 * (2 if name.startswith("qwen") else 4)
    assert answer.tokens < answer.tokens_before
    # A token file takes the video's place.
    tokens = qa.encode(clip, frames=4)
    tokens.save(tmp_path / "clip.safetensors")
    assert qa.ask(tmp_path / "clip.safetensors", QUESTION).text == answer.text
    assert qa.ask(clip, QUESTION, frames=4).cached
    # Many questions in one batch, one by one, and with beams.
    questions = [QUESTION, "Who?", "Describe the video."]
    together = qa.ask_many(tokens, questions)
    assert [each.text for each in together] == [qa.ask(tokens, q).text for q in questions]
    beams = qa.ask_many(tokens, questions, num_beams=3)
    assert [b.text for b in beams] == [qa.ask(tokens, q, num_beams=3).text for q in questions]
    # What an answer was drawn from.
    evidence = qa.evidence(tokens, answer)
    assert evidence.tokens.shape == (len(tokens),)
    assert evidence.tokens.sum() == pytest.approx(1)
    # Pieces as they come.
    assert "".join(qa.stream_answer(tokens, QUESTION)).strip() == answer.text


@every_family
def test_across_frames_the_budget_is_kept_and_asked_of(
    name: str, qa: VideoQA, clip: Path, tmp_path: Path
) -> None:
    each = qa.encode(clip, frames=8, keep=0.5)
    tokens = qa.encode(clip, frames=8, keep=0.5, temporal="on")
    assert tokens.frames == each.frames
    cells = tokens.grid[0] * tokens.grid[1] + qa.encoder.has_cls
    assert len(tokens) == len(each)
    # Every frame is told when it is, and stands where it was.
    runs, times_s = qa.language.clips.runs(tokens)
    if qa.language.clips.apart:
        told = np.bincount(tokens.frame, minlength=tokens.frames)
        assert runs == told[told > 0].tolist()
        assert times_s == tokens.pts_s[told > 0].tolist()
    if qa.encoder.family.has_positions:
        whole = qa.language.prefill(qa.encode(clip, frames=8, compress=False))
        some = qa.language.prefill(tokens)
        for prefix in (whole, some):
            assert prefix.positions is not None
            assert prefix.visual is not None
        at = torch.from_numpy(tokens.frame.astype(np.int64) * cells + tokens.patch)
        expected = whole.positions[..., whole.visual][..., at]  # type: ignore[index]
        assert torch.equal(some.positions[1:, :, some.visual], expected[1:])  # type: ignore[index]
    assert tokens.covers().any(1).all()
    if name.startswith("qwen"):  # placed where they are, in rows
        assert (np.diff(tokens.frame * cells + tokens.patch) > 0).all()
    answer = qa.ask(tokens, QUESTION)
    assert answer.tokens == len(tokens)
    tokens.save(tmp_path / "clip.safetensors")
    again = VisualTokens.load(tmp_path / "clip.safetensors")
    np.testing.assert_array_equal(again.until, tokens.until)
    assert qa.ask(again, QUESTION).text == answer.text
    evidence = qa.evidence(tokens, answer)
    assert evidence.tokens.sum() == pytest.approx(1)
    assert evidence.frames.shape == (tokens.frames,)


@every_family
@torch.inference_mode()
def test_a_conversation_equals_a_cold_run(name: str, qa: VideoQA, clip: Path) -> None:
    language, tokens = qa.language, qa.encode(clip, frames=4)
    prefix = language.prefill(tokens)
    for question in ("Who is there?", "Describe the video."):
        language.answer(prefix, question, remember=True, max_new_tokens=5)
    warm = language.logits(prefix, QUESTION)
    # Everything at once, nothing kept.
    ids = language.prompt_ids(prefix, QUESTION)
    told = language.handed(tokens, language.prefill(tokens), ids)
    cold = language.model(input_ids=ids, **told).logits[0, -1]
    torch.testing.assert_close(warm, cold, atol=LOGITS_F32, rtol=0)


@every_family
def test_likelihoods_are_those_of_the_answers_said(name: str, qa: VideoQA, clip: Path) -> None:
    language, tokens = qa.language, qa.encode(clip, frames=2)
    prefix = language.prefill(tokens)
    several = language.log_likelihoods(prefix, QUESTION, ["A man.", "A man rides a bike."])
    alone = [language.log_likelihoods(prefix, QUESTION, [said])[0] for said in
             ("A man.", "A man rides a bike.")]  # fmt: skip
    assert several == pytest.approx(alone, abs=LOGITS_F32)
    first = language.logits(prefix, QUESTION).log_softmax(-1)
    said = language.tokenizer("A", add_special_tokens=False).input_ids
    assert len(said) == 1
    end = language.log_likelihoods(prefix, QUESTION, ["A"])[0]
    assert end < float(first[said[0]]) / 2 + 1e-3


@every_family
@torch.inference_mode()
def test_a_frame_by_itself_is_told_nothing_of_the_others(
    name: str, qa: VideoQA, clip: Path
) -> None:
    language, tokens = qa.language, qa.encode(clip, frames=4)
    prefix = language.prefill(tokens)
    frame = np.unique(tokens.frame, return_inverse=True)[1]

    def told(prefix: Prefix) -> NDArray[np.floating]:
        """By a sentence, another one and a yes (3, T)."""
        said = attribution.frame_log_likelihoods(
            language, prefix, QUESTION, ["A man.", "It is"], tokens.covers()
        )
        yes = attribution.frame_yes_log_probabilities(language, prefix, QUESTION, tokens.covers())
        assert yes is not None
        return np.array([*said, yes])

    before = told(prefix)
    assert before.shape == (3, frame.max() + 1)
    # Other keys and values where the others are, and it says the same.
    spoilt = replace(prefix, cache=copy_cache(prefix.cache))
    assert prefix.visual is not None
    others = prefix.visual.nonzero()[:, 0][torch.from_numpy(frame != 1)]
    for layer in spoilt.cache.layers:
        for held in (layer.keys, layer.values):
            held[..., others, :] = torch.randn(held[..., others, :].shape)
    after = told(spoilt)
    np.testing.assert_allclose(after[:, 1], before[:, 1], atol=LOGITS_F32)
    assert (abs(after[:, 0] - before[:, 0]) > LOGITS_F32).all()
    # Of one frame nothing is hidden.
    tokens = qa.encode(clip, frames=1)
    prefix = language.prefill(tokens)
    scores = language.logits(prefix, QUESTION)
    first = language.tokenizer("A", add_special_tokens=False).input_ids[0]
    ((said,),) = attribution.frame_log_likelihoods(
        language, prefix, QUESTION, ["A"], tokens.covers()
    )
    assert said == pytest.approx(float(scores.log_softmax(-1)[first]), abs=LOGITS_F32)
    yes = attribution.frame_yes_log_probabilities(language, prefix, QUESTION, tokens.covers())
    assert yes == pytest.approx([language.yes_no.log_probability(scores)], abs=LOGITS_F32)


@every_family
def test_two_videos_in_turn_do_not_disturb_each_other(name: str, qa: VideoQA, clip: Path) -> None:
    """What a model notes of one prompt must not be used for another."""
    one, other = qa.encode(clip, frames=2), qa.encode(clip, frames=4)
    prefixes = [qa.language.prefill(tokens) for tokens in (one, other)]
    before = [qa.language.logits(prefix, QUESTION) for prefix in prefixes]
    again = [qa.language.logits(prefix, QUESTION) for prefix in reversed(prefixes)]
    for found, expected in zip(reversed(again), before, strict=True):
        assert torch.equal(found, expected)


@every_family
def test_a_stream_is_watched_and_asked(name: str, qa: VideoQA) -> None:
    random = np.random.default_rng(0)
    with qa.stream(budget=40, tolerance=0) as stream:
        for second in range(20):
            stream.push(random.integers(0, 256, (120, 160, 3), np.uint8), float(second))
        until(lambda: stream.stats.encoded == 20)
        answer = stream.ask(QUESTION)
    assert answer.text
    assert 0 < answer.tokens <= 40


@every_family
def test_a_streams_places_are_its_own(name: str, qa: VideoQA, tmp_path: Path) -> None:
    """Whatever else is encoded meanwhile, and where the stream is gone on with later."""
    random = np.random.default_rng(0)

    def picture(height: int, width: int) -> NDArray[np.uint8]:
        return random.integers(0, 256, (height, width, 3), np.uint8)

    with qa.stream(budget=40, tolerance=0) as stream:
        stream.push(picture(120, 240), 0.0)
        assert stream.wait(SLACK_S)
        alone = stream.tokens()
        qa.encoder.encode(FrameBatch(picture(240, 120)[None], np.zeros(1)), NO_COMPRESSION)
        assert stream.tokens().grid == alone.grid
        assert stream.ask(QUESTION).text
        stream.save(tmp_path / "state.vz.safetensors")
    with qa.stream(budget=40, tolerance=0, restore=tmp_path / "state.vz.safetensors") as later:
        assert later.tokens().grid == alone.grid
        later.push(picture(240, 120), 1.0)  # the camera has been turned
        assert later.wait(SLACK_S)
        both = later.tokens()
        assert both.grid == alone.grid
        np.testing.assert_array_equal(both.patch[: len(alone)], alone.patch)
        assert later.ask(QUESTION).text


@every_family
def test_frames_are_fitted_otherwise_or_that_is_refused(name: str, qa: VideoQA, clip: Path) -> None:
    if name.startswith("qwen"):
        with pytest.raises(SettingsError, match="whole and in their own shape"):
            qa.encode(clip, frames=2, fit="pad")
        return
    usual = qa.encode(clip, frames=2)
    made = {fit: qa.encode(clip, frames=2, fit=fit) for fit in ("crop", "pad", "squash")}
    shares = {fit: tokens.settings["cropped"] for fit, tokens in made.items()}
    assert shares == {"crop": 0.25, "pad": 0, "squash": 0}  # 64 x 48 pixels
    assert {len(tokens) for tokens in made.values()} == {len(usual)}
    same = [fit for fit, each in made.items() if torch.equal(each.features, usual.features)]
    crops = name in ("video_llava", "llava", "llava_next_video")
    assert same == ["crop" if crops else "squash"]


@every_family
def test_an_estimate_counts_the_tokens_that_are_made(
    name: str, qa: VideoQA, folders: dict[str, Path], clip: Path
) -> None:
    tasks = [Task(str(clip), None, None, (("1", QUESTION),))]
    settings = Settings(model=str(folders[name]), tokens_per_frame=6, frames=4)
    found = estimate(tasks, settings, Guard(), say=lambda _: None)
    assert found.tokens == len(qa.encode(clip, frames=4))


@every_family
def test_tokens_of_the_whole_and_of_a_share(name: str, qa: VideoQA, clip: Path) -> None:
    whole = qa.encode(clip, frames=2, keep=1.0)
    assert len(whole) == whole.tokens_before
    share = qa.encode(clip, frames=2, keep=0.5)
    assert 0.3 < len(share) / len(whole) < 0.7
    roles = {Role(role) for role in np.unique(share.role)}
    assert {Role.DOMINANT, Role.CONTEXTUAL} <= roles


@every_family
def test_tokens_of_another_family_are_refused(
    name: str, qa: VideoQA, folders: dict[str, Path], clip: Path
) -> None:
    other = "llava_onevision" if name != "llava_onevision" else "llava"
    theirs = vzvideo.load(str(folders[other]), device="cpu", cache=False, tokens_per_frame=6)
    tokens: VisualTokens = theirs.encode(clip, frames=2)
    with pytest.raises(vzvideo.VzVideoError, match="encode the video again"):
        qa.ask(tokens, QUESTION)


@every_family
def test_check_holds_and_would_notice(name: str, qa: VideoQA, monkeypatch: Any) -> None:
    found = check.exactness(qa.encoder, qa.language)
    assert [each.what for each in found] == ["a red square", "three discs", "a word", "a clip"]
    assert all(each.holds for each in found)
    assert max(each.largest for each in found) == 0
    family = qa.encoder.family
    project = family.project
    monkeypatch.setattr(type(family), "project", lambda self, cells: 1.01 * project(cells))
    assert not any(each.holds for each in check.exactness(qa.encoder, qa.language))


def test_an_answer_is_right_where_it_holds_the_word() -> None:
    said = check.Said("How many?", ("three", "3"), "There are three.", "33 discs")
    assert said.right(said.whole)
    assert not said.right(said.compressed)
    assert said.right("3.")


@every_family
def test_what_the_tower_sees_is_shown(name: str, qa: VideoQA, clip: Path) -> None:
    if name.startswith("qwen"):
        with pytest.raises(vzvideo.VzVideoError, match="attention of every layer is not to be had"):
            inspect_video(qa, str(clip))
        return
    seen, tokens = inspect_video(qa, str(clip))
    cells = seen.grid[0] * seen.grid[1]
    assert seen.attention.shape == (seen.frames, cells)
    assert seen.by_layer.shape[1] == cells
    np.testing.assert_allclose(seen.by_layer.sum(1), 1, rtol=1e-4)
    assert len(tokens) == 6 * seen.frames == seen.cuts[6].tokens * seen.frames
    assert torch.equal(tokens.features, qa.encode(clip).features)


@pytest.mark.parametrize("name", ["smolvlm"])
def test_the_command_line(
    name: str, folders: dict[str, Path], clip: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = ("--model", str(folders[name]), "--device", "cpu")

    def run(*arguments: str) -> tuple[int, str]:
        with pytest.raises(SystemExit) as ended:
            main([*arguments])
        return int(ended.value.code or 0), capsys.readouterr().out

    short = ("--max-new-tokens", "4", "--no-cache", "--json")
    status, out = run("ask", str(clip), QUESTION, *model, *short, "--keep", "0.25")
    assert status == 0
    answer = json.loads(out.splitlines()[0])
    assert answer["tokens"] == answer["tokens_before"] // 4
    status, out = run("check", str(folders[name]), "--device", "cpu", "--json")
    assert status == 0
    told = json.loads(out)
    assert told["exact"]
    assert len(told["answers"]) == 4
    status, out = run("check", str(folders[name]), "--device", "cpu")
    assert status == 0
    assert "a red square" in out


@pytest.mark.parametrize("holds", [True, False])
def test_auto_keeps_what_it_fetched_only_where_that_is_exact(
    holds: bool, folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VZVIDEO_CACHE", str(tmp_path))
    fetched: list[str] = []

    def locate(card: catalog.ModelCard) -> Path | None:
        return folders["video_llava"] if card.name == "mini" and fetched else None

    def pull(card: catalog.ModelCard, **_: Any) -> Path:
        fetched.append(card.name)
        return folders["smolvlm"]

    monkeypatch.setattr(weights, "locate", locate)
    monkeypatch.setattr(weights, "pull", pull)
    monkeypatch.setattr(weights, "hub_answers", lambda: True)
    monkeypatch.setitem(check.TOLERANCE, torch.float32, 1e-4 if holds else -1.0)
    said: list[str] = []
    qa = vzvideo.load("auto", device="cpu", say=said.append)
    name = fetched[0]
    assert name.startswith("smolvlm2")
    assert qa.name == (name if holds else "mini")
    assert any("does not work here exactly" in line for line in said) is not holds
    if not holds:
        fetched.clear()
        assert loader.choose_auto("cpu")[0] == "mini"
