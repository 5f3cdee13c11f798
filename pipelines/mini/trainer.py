"""What every training here shares: a model that learns from ready visual tokens, and its loop.

The vision tower's work is done before: training sees features, as VisionZip left them, and the
questions and answers about each clip, packed (`packing`). Knows nothing of where clips and
questions come from.
"""

from __future__ import annotations

import json
import resource
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from peft import LoraConfig, inject_adapter_in_model
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from pipelines.mini.packing import Packed
from vzvideo.errors import SettingsError

LORA_RANK = 32
SCALE = 2  # LoRA's alpha by its rank
KEEP_S = 600  # a checkpoint at least so often: a kill then costs no more, however slow the machine
DECISIVE = 3.0  # weight of the words of a short answer


class Connector(nn.Module):
    """Video-LLaVA's projector behind a fixed standardisation of its input.

    Standardised inputs train well; `folded` puts the standardisation into the first layer, so that
    the checkpoint stays plain Video-LLaVA.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, projector: Any, sample: Tensor | None) -> None:
        """sample: (n, D) features to take the statistics from; None leaves them as they come."""
        super().__init__()
        self.projector = projector
        width = projector.linear_1.in_features
        plain = torch.zeros(width), torch.ones(width)
        mean, std = plain if sample is None else (sample.mean(0), sample.std(0).clamp(min=1e-6))
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)

    def forward(self, features: Tensor) -> Tensor:
        output: Tensor = self.projector((features - self.mean) / self.std)
        return output

    @torch.no_grad()
    def folded(self) -> dict[str, Tensor]:
        """The projector's weights for features as they come."""
        state = {
            name: value.detach().clone() for name, value in self.projector.state_dict().items()
        }
        weight = state["linear_1.weight"]
        state["linear_1.weight"] = weight / self.std
        state["linear_1.bias"] = state["linear_1.bias"] - weight @ (self.mean / self.std)
        return state

    @torch.no_grad()
    def unfold(self, state: dict[str, Tensor]) -> None:
        """Takes over what `folded` gave, here or elsewhere, or a published projector."""
        state = {name: value.float().to(self.mean.device) for name, value in state.items()}
        weight = state["linear_1.weight"]
        state["linear_1.bias"] = state["linear_1.bias"] + weight @ self.mean
        state["linear_1.weight"] = weight * self.std
        self.projector.load_state_dict(state)


class Trainee(nn.Module):
    """Connector and language model of a Video-LLaVA; the towers' work is already done."""

    def __init__(
        self, model: Any, sample: Tensor | None, *, lora: bool = True, rank: int = LORA_RANK
    ) -> None:
        """lora: whether the language model learns too, or the connector alone."""
        super().__init__()
        self.connector = Connector(model.model.multi_modal_projector, sample)
        self.language_model = model.model.language_model
        self.head = model.lm_head
        self.video_token = model.config.video_token_index
        self.requires_grad_(False)
        self.rank = rank
        if lora:
            config = LoraConfig(r=rank, lora_alpha=SCALE * rank, target_modules="all-linear")
            inject_adapter_in_model(config, self.language_model)
        self.connector.requires_grad_(True)

    def forward(self, features: Tensor, batch: Packed) -> Tensor:
        """features (..., D), all videos in order -> the loss of each answer token, nats (A,)."""
        embeds = self.language_model.get_input_embeddings()(batch.ids)
        video = (batch.ids == self.video_token).unsqueeze(-1)
        embeds = embeds.masked_scatter(video, self.connector(features).to(embeds.dtype))
        hidden = self.language_model(
            inputs_embeds=embeds,
            attention_mask=batch.mask,
            position_ids=batch.positions,
            use_cache=False,
        ).last_hidden_state
        logits = self.head(hidden[batch.row, batch.source])
        return F.cross_entropy(logits.float(), batch.target, reduction="none")

    def lora_parameters(self) -> list[nn.Parameter]:
        """What of the language model learns."""
        return [p for p in self.language_model.parameters() if p.requires_grad]

    def lora_state(self) -> dict[str, Tensor]:
        """LoRA weights by the names of the layers they belong to."""
        return {
            name.replace(".default.weight", ""): value
            for name, value in self.language_model.state_dict().items()
            if "lora_" in name
        }

    def load_lora(self, state: dict[str, Tensor]) -> None:
        """Takes over what `lora_state` gave, of this rank or a lower one.

        A lower one is grown: the rows of A beyond it stay random and the columns of B are zero, so
        that the sum B A is what it was.
        """
        named = {f"{name}.default.weight": value for name, value in state.items()}
        own = self.language_model.state_dict()
        for name, value in named.items():
            if name in own and value.shape != own[name].shape:
                grown = own[name].clone() if "lora_A" in name else torch.zeros_like(own[name])
                grown[tuple(slice(size) for size in value.shape)] = value
                named[name] = grown
        unknown = self.language_model.load_state_dict(named, strict=False).unexpected_keys
        if unknown:
            raise ValueError(f"no layer of this language model is called {unknown[0]}")

    def shrink_frozen(self) -> None:
        """What is frozen may as well be small; LoRA and connector stay in float32."""
        for parameter in self.language_model.parameters():
            if not parameter.requires_grad:
                parameter.data = parameter.data.bfloat16()


def export(trainee: Trainee, path: Path, note: dict[str, Any]) -> None:
    """Writes connector and LoRA in half precision, whole or not at all."""
    state = {f"projector.{name}": value for name, value in trainee.connector.folded().items()}
    state |= trainee.lora_state()
    metadata = {
        "lora_rank": str(trainee.rank),
        "lora_alpha": str(SCALE * trainee.rank),
        "training": json.dumps(note),
    }
    part = path.with_suffix(".part")
    save_file({k: v.half().cpu().contiguous() for k, v in state.items()}, part, metadata)
    part.replace(path)


def load_export(trainee: Trainee, path: Path) -> None:
    """Goes on from an adapter that `export` wrote."""
    with safe_open(path, "pt") as file:
        state = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
        scale = float(file.metadata()["lora_alpha"]) / float(file.metadata()["lora_rank"])
    state = {n: v * scale / SCALE if n.endswith("lora_B") else v for n, v in state.items()}
    projector = {name: value for name, value in state.items() if name.startswith("projector.")}
    trainee.connector.unfold({n.removeprefix("projector."): v for n, v in projector.items()})
    trainee.load_lora({n: v for n, v in state.items() if n not in projector})


@dataclass(frozen=True)
class Schedule:
    """How long and how fast: steps of the whole training, rates, the steps between evaluations.

    decay: the part of the steps, at the end, in which the rates fall to zero; before it they stay.
    A training may so be stretched, or brought to its end, whenever it is resumed.
    """

    steps: int
    connector_lr: float
    lora_lr: float
    warmup: int
    every: int
    decay: float = 0.2

    def rate(self, step: int) -> float:
        """What the rates are multiplied by, 0..1."""
        left = (self.steps - step) / max(self.decay * self.steps, 1)
        return max(0.0, min(step / max(self.warmup, 1), 1.0, left))


# Step -> its batch in parts that fit the memory, each with its features (..., D).
Draw = Callable[[int], list[tuple[Tensor, Packed]]]
Report = Callable[[Trainee, dict[str, float]], None]
# Step -> a loss that is learned beside the answers.
Aside = Callable[[int], Tensor]


def claim(home: Path, about: dict[str, Any]) -> None:
    """Makes `home` the folder of the training that `about` describes, or refuses.

    Raises SettingsError where it holds another one: its checkpoint would be taken for one of this.
    """
    home.mkdir(parents=True, exist_ok=True)
    path = home / "about.json"
    about = json.loads(json.dumps(about, default=str))
    before = json.loads(path.read_text()) if path.exists() else about
    changed = [name for name in about if before.get(name) != about[name]]
    if changed:
        raise SettingsError(
            f"{home} holds another training ({', '.join(changed)} differ): give another folder, or "
            "delete it"
        )
    path.write_text(json.dumps(about) + "\n")


def kept(home: Path) -> Path | None:
    """The checkpoint to go on from. A kill may have come between any two steps of keeping it."""
    for name in ("state", "state.part", "state.old"):
        if (home / name / "step.json").exists():  # written last
            return home / name
    return None


def fit(
    trainee: Trainee, draw: Draw, schedule: Schedule, accelerator: Accelerator, home: Path,
    report: Report, *, aside: Aside | None = None, threads: int = 1,
) -> None:  # fmt: skip
    """Trains, going on from the last checkpoint in `home` where there is one.

    draw must depend on the step alone, so that a resumed run sees what an uninterrupted one saw.
    A checkpoint is kept at every evaluation, and every ten minutes between. report is called at
    every evaluation, after that, with step, loss since the last one, seconds spent training (all in
    all and a step, drawing apart) and peak memory in MiB.

    threads: parts of a batch learned from at once, each by one core. Where others use the machine,
    that wastes less than giving several cores to a part, where each waits for all the others after
    every product.
    """
    groups = [{"params": list(trainee.connector.parameters()), "lr": schedule.connector_lr}]
    if lora := trainee.lora_parameters():
        groups.append({"params": lora, "lr": schedule.lora_lr})
    rates = [group["lr"] for group in groups]  # a scheduler writes into the groups themselves
    optimizer = torch.optim.AdamW(groups, weight_decay=0.01)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule.rate)
    bare = trainee
    trainee, optimizer, scheduler = accelerator.prepare(trainee, optimizer, scheduler)
    step, seconds = 0, 0.0
    if checkpoint := kept(home):
        accelerator.load_state(str(checkpoint))
        # Rates and length may have been changed since; momenta and weights go on.
        scheduler.scheduler.base_lrs = rates
        progress = json.loads((checkpoint / "step.json").read_text())
        step, seconds = progress["step"], progress.get("seconds", 0.0)
        print(f"going on from step {step}", flush=True)
    recent: list[float] = []
    learned = [parameter for parameter in trainee.parameters() if parameter.requires_grad]
    each = max(1, torch.get_num_threads() // threads)
    pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(each,))

    def tell() -> None:
        mean = sum(recent) / len(recent) if recent else float("nan")
        facts = {"step": step, "loss": mean, "train_s": seconds, "step_s": seconds / max(step, 1)}
        facts["peak_mib"] = _peak_mib(accelerator.device)
        bare.eval()
        with torch.no_grad(), accelerator.autocast():
            report(bare, facts)
        bare.train()
        recent.clear()

    if step >= schedule.steps:
        tell()  # killed at the very end, maybe before it was told
    _reset_peak(accelerator.device)
    trainee.train()
    safe = time.monotonic()
    with pool:
        while step < schedule.steps:
            parts = draw(step)
            begun = time.perf_counter()
            whole = sum(float(batch.weight.sum()) for _, batch in parts)
            loss = 0.0
            if aside:
                accelerator.backward(aside(step))
            learn = partial(_gradients, trainee, learned, accelerator, whole)
            for part_loss, gradients in pool.map(learn, parts):
                loss += part_loss
                for parameter, gradient in zip(learned, gradients, strict=True):
                    if gradient is not None:
                        parameter.grad = (
                            gradient if parameter.grad is None else parameter.grad + gradient
                        )
            accelerator.clip_grad_norm_(trainee.parameters(), 1.0)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
            step += 1
            seconds += time.perf_counter() - begun
            recent.append(loss)
            if step % 10 == 0:
                mean = sum(recent[-10:]) / len(recent[-10:])
                print(f"step {step} loss {mean:.3f} {seconds / step:.2f} s a step", flush=True)
            due = step % schedule.every == 0 or step == schedule.steps
            if due or time.monotonic() - safe > KEEP_S:
                _keep(accelerator, home, {"step": step, "seconds": seconds})
                safe = time.monotonic()
            if due:
                tell()


def _gradients(
    trainee: Trainee, learned: list[nn.Parameter], accelerator: Accelerator, whole: float,
    part: tuple[Tensor, Packed],
) -> tuple[float, tuple[Tensor | None, ...]]:  # fmt: skip
    """A part's share of the batch's loss, and of the gradient of what learns."""
    features, batch = part
    batch = batch.to(accelerator.device)
    with accelerator.autocast():
        losses = trainee(features.to(accelerator.device), batch)
    loss = (losses * batch.weight).sum() / whole
    return loss.item(), torch.autograd.grad(loss, learned, allow_unused=True)


def _keep(accelerator: Accelerator, home: Path, progress: dict[str, float]) -> None:
    """Writes a checkpoint; at every moment a whole one is there under one of three names."""
    state, new, old = home / "state", home / "state.part", home / "state.old"
    if kept(home) == new:
        new.rename(state)
    shutil.rmtree(new, ignore_errors=True)
    accelerator.save_state(str(new))
    (new / "step.json").write_text(json.dumps(progress))
    shutil.rmtree(old, ignore_errors=True)
    if state.exists():
        state.rename(old)
    new.rename(state)
    shutil.rmtree(old, ignore_errors=True)


_PEAK = Path("/proc/self/clear_refs")


def _reset_peak(device: torch.device) -> None:
    """So that what was done before training does not count as its peak."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif _PEAK.exists():
        _PEAK.write_text("5")  # Linux: the high-water mark falls to what is used now


def _peak_mib(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / (1 << 20)
    if _PEAK.exists():
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
