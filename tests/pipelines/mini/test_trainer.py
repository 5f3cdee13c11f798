"""The connector, what is written of a training, and its loop."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from torch import Tensor

from pipelines.mini import trainer as training
from pipelines.mini.packing import Packed, Packer
from pipelines.mini.trainer import Connector, Schedule, Trainee
from tests.conftest import small_model
from tests.pipelines.made import random_features
from tests.pipelines.trainees import COUNTS, ITEMS, SAMPLE, losses_of, made_trainee, same
from tests.tolerances import LOGITS_F32
from vzvideo.models import mini_build


def halved(trainee: Trainee) -> Trainee:
    """With weights that half precision holds exactly."""
    with torch.no_grad():
        for weight in (*trainee.connector.parameters(), *trainee.lora_parameters()):
            weight.copy_(weight.half())
    return trainee


# -- the connector


def test_folding_the_standardisation_changes_nothing() -> None:
    connector = made_trainee().connector.double()
    plain = small_model(seed=7).model.multi_modal_projector.double()
    plain.load_state_dict(connector.folded())
    with torch.no_grad():
        assert SAMPLE.std(0).max() / SAMPLE.std(0).min() > 20
        same(plain(SAMPLE.double()), connector(SAMPLE.double()))


def test_inputs_are_standardised() -> None:
    connector = made_trainee().connector
    connector.projector = torch.nn.Identity()
    standard = connector(SAMPLE)
    same(standard.mean(0), torch.zeros(32))
    same(standard.std(0), torch.ones(32))


def test_unfolding_takes_over_what_was_folded() -> None:
    one, other = made_trainee().connector, made_trainee(SAMPLE * 2 - 3, seed=1).connector
    other.unfold(one.folded())
    with torch.no_grad():
        same(other(SAMPLE), one(SAMPLE))


def test_a_published_projector_goes_on_as_it_was() -> None:
    projector = small_model(seed=3).model.multi_modal_projector
    with torch.no_grad():
        before = projector(SAMPLE)
        connector = Connector(projector, SAMPLE)
        connector.unfold(projector.state_dict())
        same(connector(SAMPLE), before)


# -- exports


def test_export_and_adapter_give_the_trained_model_back(packer: Packer, tmp_path: Path) -> None:
    trainee = halved(made_trainee(None))
    training.export(trainee, tmp_path / "adapter.safetensors", {"step": 1})
    assert [path.name for path in tmp_path.iterdir()] == ["adapter.safetensors"]
    model = small_model()
    mini_build.apply_adapter(model, tmp_path / "adapter.safetensors")
    batch, features = packer(ITEMS, COUNTS), random_features(sum(COUNTS), 32)
    losses = losses_of(trainee, features, batch)
    same(losses_of(Trainee(model, None, lora=False), features, batch), losses)
    untrained = losses_of(Trainee(small_model(), None, lora=False), features, batch)
    assert (untrained - losses).abs().max() > 0.1


def test_an_export_is_of_plain_features(tmp_path: Path) -> None:
    trainee = made_trainee()
    training.export(trainee, tmp_path / "adapter.safetensors", {})
    state = load_file(tmp_path / "adapter.safetensors")
    assert {value.dtype for value in state.values()} == {torch.float16}
    for name, value in trainee.connector.folded().items():
        assert torch.equal(state[f"projector.{name}"], value.half())


def test_an_export_is_loaded_back(packer: Packer, tmp_path: Path) -> None:
    trainee, path = halved(made_trainee(None)), tmp_path / "adapter.safetensors"
    training.export(trainee, path, {})
    batch, features = packer(ITEMS, COUNTS), random_features(sum(COUNTS), 32)
    expected = losses_of(trainee, features, batch)
    for sample in (None, SAMPLE):
        other = made_trainee(sample, seed=1)
        training.load_export(other, path)
        same(losses_of(other, features, batch), expected)
        for name, value in other.lora_state().items():
            assert torch.equal(value, trainee.lora_state()[name])


def test_an_adapter_of_lower_rank_is_grown(packer: Packer, tmp_path: Path) -> None:
    model = small_model()
    low = halved(Trainee(model, None, rank=4))
    with torch.no_grad():
        for name, weight in low.language_model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.1)
    halved(low).eval()
    training.export(low, tmp_path / "adapter.safetensors", {})
    batch, features = packer(ITEMS, COUNTS), random_features(sum(COUNTS), 32)
    high = Trainee(small_model(), None, rank=8).eval()
    training.load_export(high, tmp_path / "adapter.safetensors")
    same(losses_of(high, features, batch), losses_of(low, features, batch))
    for name, value in high.lora_state().items():
        added = value[:, 4:] if name.endswith("lora_B") else value[4:]
        assert (added.abs().max() == 0) == name.endswith("lora_B")


def test_an_export_of_another_model_is_refused(tmp_path: Path) -> None:
    training.export(made_trainee(), tmp_path / "adapter.safetensors", {})
    with pytest.raises(ValueError, match="no layer of this language model is called layers"):
        training.load_export(made_trainee(lora=False), tmp_path / "adapter.safetensors")


# -- the loop


class Killed(Exception):
    """Stands for a kill."""


def fitted(
    home: Path, packer: Packer, *, die_at: int | None = None, lora: bool = True,
    apart: bool = False, threads: int = 1, beside: float = 0.0,
) -> tuple[Trainee, list[int], list[dict[str, float]]]:  # fmt: skip
    """A trainee after six steps, a checkpoint every two; the steps drawn; what was reported."""
    trainee = made_trainee(lora=lora)
    drawn: list[int] = []
    reports: list[dict[str, float]] = []

    def draw(step: int) -> list[tuple[Tensor, Packed]]:
        if step == die_at:
            raise Killed
        drawn.append(step)
        features = random_features(sum(COUNTS), 32, seed=step)
        if not apart:
            return [(features, packer(ITEMS, COUNTS, decisive=3))]
        parts = zip(features.split(COUNTS), ITEMS, strict=True)
        return [(part, packer([pairs], len(part), decisive=3)) for part, pairs in parts]

    def report(reported: Trainee, facts: dict[str, float]) -> None:
        assert not reported.training
        reports.append(facts)

    schedule = Schedule(steps=6, connector_lr=1e-3, lora_lr=1e-3, warmup=1, every=2)

    def aside(step: int) -> Tensor:
        return beside * trainee.connector(random_features(3, 32, seed=step)).square().mean()

    training.fit(
        trainee, draw, schedule, Accelerator(cpu=True), home, report,
        aside=aside if beside else None, threads=threads,
    )  # fmt: skip
    return trainee, drawn, reports


@pytest.mark.parametrize("die_at", [1, 3, 4])
def test_a_killed_run_ends_as_one_left_alone(packer: Packer, tmp_path: Path, die_at: int) -> None:
    whole, drawn, reports = fitted(tmp_path / "whole", packer)
    assert drawn == list(range(6))
    assert [facts["step"] for facts in reports] == [2, 4, 6]
    assert all(facts["loss"] > 0 and facts["peak_mib"] > 0 for facts in reports)
    home = tmp_path / "killed"
    with pytest.raises(Killed):
        fitted(home, packer, die_at=die_at)
    assert (training.kept(home) is not None) == (die_at >= 2)
    if die_at == 3:  # and a kill while the checkpoint was being put into its place
        (home / "state").rename(home / "state.part")
        assert training.kept(home) == home / "state.part"
    resumed, drawn, _ = fitted(home, packer)
    assert drawn == list(range(die_at // 2 * 2, 6))
    states = whole.state_dict(), resumed.state_dict()
    assert states[0].keys() == states[1].keys()
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name]), name


def test_a_slow_run_is_kept_between_evaluations(
    packer: Packer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "KEEP_S", -1)
    with pytest.raises(Killed):
        fitted(tmp_path, packer, die_at=3)
    _, drawn, reports = fitted(tmp_path, packer)
    assert drawn == [3, 4, 5]
    assert [facts["step"] for facts in reports] == [4, 6]


def test_a_batch_in_parts_is_learned_as_one(packer: Packer, tmp_path: Path) -> None:
    _, _, whole = fitted(tmp_path / "whole", packer)
    _, _, parts = fitted(tmp_path / "parts", packer, apart=True)
    for one, other in zip(whole, parts, strict=True):
        assert other["loss"] == pytest.approx(one["loss"], abs=LOGITS_F32)


def test_several_threads_learn_what_one_does(packer: Packer, tmp_path: Path) -> None:
    one, _, _ = fitted(tmp_path / "one", packer, apart=True)
    two, _, _ = fitted(tmp_path / "two", packer, apart=True, threads=2)
    for name, value in two.state_dict().items():
        same(value, one.state_dict()[name])


def test_what_is_learned_beside_the_answers_counts(packer: Packer, tmp_path: Path) -> None:
    plain, _, _ = fitted(tmp_path / "plain", packer)
    other, _, _ = fitted(tmp_path / "other", packer, beside=100.0)
    some = random_features(9, 32)
    with torch.no_grad():
        assert other.connector(some).square().mean() < plain.connector(some).square().mean()


def test_rates_rise_stay_and_fall_at_the_end() -> None:
    schedule = Schedule(steps=100, connector_lr=1, lora_lr=1, warmup=10, every=1, decay=0.2)
    rates = [schedule.rate(step) for step in range(101)]
    assert rates[0] == 0 == rates[100]
    assert rates[5] == pytest.approx(0.5)
    assert set(rates[10:81]) == {1.0}
    assert rates[90] == pytest.approx(0.5)


def test_the_loss_counts_answers_by_their_weights(packer: Packer, tmp_path: Path) -> None:
    batch = packer(ITEMS, COUNTS, decisive=3)
    trainee = made_trainee()
    features = [random_features(sum(COUNTS), 32, seed=step) for step in range(2)]
    first = losses_of(trainee, features[0], batch)
    expected = (first * batch.weight).sum() / batch.weight.sum()
    # Warming up, the first step is of rate 0: two losses are of the untrained weights.
    second = losses_of(trainee, features[1], batch)
    expected = (expected + (second * batch.weight).sum() / batch.weight.sum()) / 2
    _, _, reports = fitted(tmp_path, packer)
    assert reports[0]["loss"] == pytest.approx(expected.item(), abs=LOGITS_F32)


def test_training_changes_connector_and_lora_alone(packer: Packer, tmp_path: Path) -> None:
    before, (after, _, reports) = made_trainee().state_dict(), fitted(tmp_path, packer)
    changed = {name for name, value in after.state_dict().items() if (value != before[name]).any()}
    learned = {name for name in before if "connector.projector" in name or "lora_" in name}
    assert changed == learned
    assert reports[-1]["loss"] < reports[0]["loss"]


def test_without_lora_the_connector_learns_alone(packer: Packer, tmp_path: Path) -> None:
    before = made_trainee(lora=False).state_dict()
    after, _, _ = fitted(tmp_path, packer, lora=False)
    assert after.lora_parameters() == []
    assert after.lora_state() == {}
    changed = {name for name, value in after.state_dict().items() if (value != before[name]).any()}
    assert changed == {name for name in before if "connector.projector" in name}
