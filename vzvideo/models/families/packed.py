"""Families whose tower packs pictures of any shape into one row of patches: Qwen's.

L patches of all items; s x s of them are merged into a cell, and of a video two frames at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import torch
from einops import rearrange
from torch import Tensor, nn
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import apply_rotary_pos_emb_vision

from vzvideo import visionzip
from vzvideo.models.families.base import Family
from vzvideo.models.families.items import Item, Part, places
from vzvideo.models.preprocess import SmartResize
from vzvideo.models.tower import Scored, of_this_thread


class PackedFamily(Family):
    arguments: ClassVar = {
        "image": ("pixel_values", "image_grid_thw"),
        "video": ("pixel_values_videos", "video_grid_thw"),
    }
    merge: ClassVar = "mean"
    has_positions: ClassVar = True
    frames_per_group: ClassVar = 2

    @property
    def width(self) -> int:
        return int(self.core.config.vision_config.out_hidden_size)

    def preprocess(self, folder: Path) -> SmartResize:
        return SmartResize.from_folder(
            folder, self._vision.patch_size * self._vision.spatial_merge_size
        )

    # -- where cells are; see `Family`

    def positions(self, given: dict[str, Any]) -> tuple[Tensor, Tensor]:
        names = ("input_ids", "mm_token_type_ids", "image_grid_thw", "video_grid_thw",
                 "second_per_grid_ts", "attention_mask")  # fmt: skip
        found: tuple[Tensor, Tensor] = self.core.get_rope_index(
            **{name: given[name] for name in names if given.get(name) is not None}
        )
        return found

    def clip_positions(
        self, ids: Tensor, grid: tuple[int, int], times_s: Sequence[float]
    ) -> tuple[Tensor, Tensor]:
        merge, groups = self._vision.spatial_merge_size, len(times_s)
        shape = [[groups, grid[0] * merge, grid[1] * merge]]
        shown = {"video_grid_thw": torch.tensor(shape, device=ids.device)}
        # With a word behind it, which says where the question begins: a long video's positions in
        # time go further than that.
        ids = torch.cat([ids, ids[:, :1]], dim=1)
        found, _ = self.positions({"input_ids": ids, **shown, **self.told(ids, times_s)})
        return found[..., :-1], found[:1, :, -1] - (ids.shape[1] - 1)

    def clip_arguments(
        self, inputs: Tensor, ids: Tensor, times_s: Sequence[float]
    ) -> dict[str, Any]:
        pixels, grid = self.patches(inputs)
        shown = {"pixel_values_videos": pixels, "video_grid_thw": grid}
        return {**shown, **self.told(ids, times_s)}

    def told(self, ids: Tensor, times_s: Sequence[float]) -> dict[str, Tensor]:
        """What the model is told of a clip beside pixels and grid; times_s: of each group."""
        return {"mm_token_type_ids": 2 * (ids == self.token_id("video")).int()}

    def resume(self, ahead: Tensor | None) -> None:
        self.core.rope_deltas = ahead

    def following(self, length: int, ids: Tensor, ahead: Tensor | None) -> dict[str, Tensor]:
        text = torch.arange(length, length + ids.shape[1], device=ids.device).expand(ids.shape)
        vision = text if ahead is None else text + ahead
        return {"position_ids": torch.stack([text, vision, vision, vision])}

    # -- frames of a clip

    def vision(self) -> nn.Module:
        module: nn.Module = self.core.visual
        return module

    def grid(self, height: int, width: int) -> tuple[int, int]:
        edge = self._vision.patch_size * self._vision.spatial_merge_size
        return height // edge, width // edge

    def frames(self, inputs: Tensor) -> Scored:
        pixels, grid = self.patches(inputs)
        given = {"pixel_values_videos": pixels, "video_grid_thw": grid}
        return self.items("video", given)[0].parts[0].cells

    def whole_frames(self, inputs: Tensor) -> Tensor:
        pixels, grid = self.patches(inputs)
        return self.encode("video", pixels, grid)[0].unflatten(0, (int(grid[0, 0]), -1))

    def patches(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """(T, 3, H, W) -> patches (L, 3 * t * p * p) as the published processor lays them out, and
        their grid (1, 3). The last frame is repeated up to a whole group."""
        pair, patch = self.frames_per_group, self._vision.patch_size
        inputs = torch.cat([inputs, inputs[-1:].expand(-len(inputs) % pair, -1, -1, -1)])
        t, h, w = len(inputs) // pair, inputs.shape[2] // patch, inputs.shape[3] // patch
        merge = self._vision.spatial_merge_size
        pixels = rearrange(
            inputs, "(t u) c (h i p) (w j q) -> (t h w i j) (c u p q)",
            u=pair, i=merge, j=merge, p=patch, q=patch,
        )  # fmt: skip
        pixels = pixels.to(self.core.visual.device, self.core.visual.dtype)
        return pixels, torch.tensor([[t, h, w]], device=pixels.device)

    @property
    def _vision(self) -> Any:
        return self.core.config.vision_config

    # -- pictures and videos of a call

    def items(self, modality: str, given: dict[str, Any]) -> list[Item]:
        pixels, grids = (given[name] for name in self.arguments[modality][:2])
        with self._watch() as seen:
            features = self.encode(modality, pixels, grids)
        values = self.in_rows(self._values(seen, grids), grids)
        items = []
        for hidden, own, (t, _, _) in zip(
            features, values.split([len(each) for each in features]), grids.tolist(), strict=True
        ):
            hidden, own = hidden.unflatten(0, (t, -1)), own.unflatten(0, (t, -1))
            cells = Scored(hidden, own[..., 0], own[..., 1:])
            place = places(t, hidden.shape[1], hidden.device)
            items.append(Item([Part(cells, place)], place.numel()))
        return items

    def encode(self, modality: str, pixels: Tensor, grids: Tensor) -> list[Tensor]:
        """Features (t * C, E) of each item."""
        out = getattr(self.core, f"get_{modality}_features")(pixels, grids, return_dict=True)
        return list(out.pooler_output)

    def in_rows(self, cells: Tensor, grids: Tensor) -> Tensor:
        """Cells of all items, from the order in which the tower has them to that of rows."""
        return cells

    @torch.no_grad()
    def _values(self, seen: dict[str, Tensor], grids: Tensor) -> Tensor:
        """(cells of all items, 1 + K): scores and keys, each the mean of a cell's patches."""
        found, first = [], 0
        for t, h, w in grids.tolist():
            # Attention stays within a frame: each is scored by itself, those of an item at once.
            rows = slice(first, first + t * h * w)
            query, key, metric = (
                rearrange(seen[name][rows], "(t n) h d -> t h n d", t=t) for name in "qkm"
            )
            scores = visionzip.attention_received(query, key, query.shape[-1] ** -0.5)
            both = torch.cat([scores[..., None], visionzip.mean_keys(metric).float()], dim=-1)
            found.append(both.flatten(0, 1))
            first = rows.stop
        merged = self.core.visual.spatial_merge_size**2
        return torch.cat(found).unflatten(0, (-1, merged)).mean(1)

    @contextmanager
    def _watch(self) -> Iterator[dict[str, Tensor]]:
        """Notes the last block's queries "q" and keys "k" as attention takes them, turned by their
        places, and "m", the keys before that, by which cells are compared; each (L, heads, d)."""
        attention, heads = self.core.visual.blocks[-1].attn, self.core.visual.config.num_heads
        seen: dict[str, Tensor] = {}
        rotary: list[tuple[Tensor, Tensor]] = []

        def before(_module: nn.Module, _args: Any, options: dict[str, Any]) -> None:
            rotary.append(options["position_embeddings"])

        def behind(_module: nn.Module, _args: Any, out: Tensor) -> None:
            q, k, _ = rearrange(out.detach(), "n (three h d) -> three n h d", three=3, h=heads)
            seen["q"], seen["k"] = apply_rotary_pos_emb_vision(q, k, *rotary[-1])
            seen["m"] = k

        hooks = [
            attention.register_forward_pre_hook(of_this_thread(before), with_kwargs=True),
            attention.qkv.register_forward_hook(of_this_thread(behind)),
        ]
        try:
            yield seen
        finally:
            for hook in hooks:
                hook.remove()
