"""What serves every family of vision-language models.

The model's own features and scores, a prompt shortened to what is kept, and features handed over as
transformers itself does it (`mm_encoder_outputs`). Where everything is kept, the logits are those
of the model's own forward from pixels.

A *patch* is a token of the tower. A *cell* is what becomes one token of the language model: a
patch, or the patches that a connector pools or shuffles into one. A *group* is compressed by
itself: a frame, a tile, a temporal patch. An *item* is a picture or a video, shown by one run of
placeholders. G groups of C cells with E channels; M cells of an item are kept, as D channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPooling

from vzvideo.errors import ModelError
from vzvideo.models.families.items import Item, Kept, compress, take_rows, with_newlines
from vzvideo.models.preprocess import Preprocess, SmartResize
from vzvideo.models.prompts import vicuna
from vzvideo.models.tower import Scored
from vzvideo.visionzip import ZipSettings


class Family:
    """What a family of models has for itself; bound to `core`, a model without its head."""

    arguments: ClassVar[dict[str, tuple[str, ...]]]  # modality -> of get_*_features, pixels first
    aliases: ClassVar[dict[str, str]] = {}  # an argument's old name -> its name
    stacked: ClassVar[tuple[str, ...]] = ()  # modalities whose features are one tensor, not a list
    merge: ClassVar[Literal["reference", "mean"]] = "reference"  # "mean" where cells are projected
    has_positions: ClassVar[bool] = False  # whether a cell's position depends on its place
    shows: ClassVar[str] = "video"  # the modality by which frames of a clip are shown
    frames_per_group: ClassVar[int] = 1

    def __init__(self, core: Any) -> None:
        self.core = core

    # -- what a family says

    @property
    def width(self) -> int:
        """E."""
        raise NotImplementedError

    def items(self, modality: str, given: dict[str, Any]) -> list[Item]:
        """The pictures or videos of a call, uncompressed. given: the arguments of `modality`."""
        raise NotImplementedError

    def project(self, cells: Tensor) -> Tensor:
        """(M, E) -> (M, D): what is left to do for cells before the language model reads them."""
        return cells

    def hand_over(self, modality: str, features: list[Tensor]) -> Any:
        """Features (M, D) of each item in the container that the model's forward expects."""
        # As one row, for of several clips one may be left with fewer; models flatten what they get.
        whole = torch.cat(features)[None] if modality in self.stacked else features
        return BaseModelOutputWithPooling(pooler_output=whole)  # type: ignore[arg-type]

    def positions(self, given: dict[str, Any]) -> tuple[Tensor, Tensor] | None:
        """Positions (3, B, S) of the whole prompt, and by how much what follows it is ahead of its
        length (B, 1); None where positions count from 0."""
        return None

    def token_id(self, modality: str) -> int:
        """The placeholder."""
        return int(getattr(self.core.config, f"{modality}_token_id"))

    # -- how the model is told of a clip

    kind: ClassVar[Literal["video", "image"]] = "video"  # what its chat template is given
    mark: ClassVar[str | None] = None  # what that writes for it; None: the placeholder
    template_first: ClassVar[bool] = False  # whether the family's goes before a checkpoint's own
    tells_time: ClassVar[bool] = False  # whether the model is told when a frame is
    newline: ClassVar[int] = 0  # placeholders of `image_newline` behind each run

    def template(self, word: str) -> str:
        """The published chat template; word: the placeholder."""
        return vicuna(word)

    def layout(self, word: str, times_s: Sequence[float]) -> str:
        """The text that shows a clip, with one placeholder for each run of them: the frames of one
        run are read without a word between them."""
        return word

    def finish(self, cells: Tensor, runs: Sequence[int]) -> Tensor:
        """Cells (M, E) of a clip, so many in each run -> what the model reads (M', D)."""
        projected = self.project(cells)
        if not self.newline:
            return projected
        line = self.core.image_newline[None].to(projected)
        return torch.cat([part for run in projected.split(list(runs)) for part in (run, line)])

    def clip_positions(
        self, ids: Tensor, grid: tuple[int, int], times_s: Sequence[float]
    ) -> tuple[Tensor, Tensor]:
        """As `positions`, of a prompt (1, S) that shows an uncompressed clip."""
        raise NotImplementedError

    def resume(self, ahead: Tensor | None) -> None:
        """Before a forward that follows a prefix: by how much it is ahead of its length."""

    def following(self, length: int, ids: Tensor, ahead: Tensor | None) -> dict[str, Tensor]:
        """Positions of ids (B, S) behind a prefix of so many tokens, where a mask is given."""
        return {}

    def preprocess(self, folder: Path) -> Preprocess | SmartResize:
        """What a checkpoint says of its frames."""
        return Preprocess.from_folder(folder)

    # -- frames of a clip, for `Encoder`; preprocessed (T, 3, H, W) -> G groups

    @property
    def has_frame_cls(self) -> bool:
        """Whether the first cell of a frame is a CLS."""
        return False

    def vision(self) -> nn.Module:
        """The tower that frames go through."""
        raise NotImplementedError

    def whole_frames(self, inputs: Tensor) -> Tensor:
        """Features (G, C, E), nothing scored, without a CLS that is not shown."""
        raise NotImplementedError

    def frames(self, inputs: Tensor) -> Scored:
        """Cells (G, C, ...)."""
        raise NotImplementedError

    def frames_by_layer(self, inputs: Tensor) -> tuple[Scored, Tensor]:
        """As `frames`, and the scores (L, G, C) of every layer."""
        raise ModelError(
            f"the attention of every layer is not to be had of a {self.core.config.model_type} "
            "model, which packs pictures of any shape",
            code="family",
        )

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Cells of a frame of so many pixels: rows, columns."""
        raise NotImplementedError

    def clip_arguments(
        self, inputs: Tensor, ids: Tensor, times_s: Sequence[float]
    ) -> dict[str, Any]:
        """What the model's own forward is given for frames (T, 3, H, W) and a prompt (1, S)."""
        return {self.arguments[self.shows][0]: inputs[None]}

    # -- what all have in common

    def see(self, modality: str, given: dict[str, Any], settings: ZipSettings | None) -> list[Kept]:
        """The arguments of a call that holds pixels -> what is kept of each item, projected."""
        items = self.items(modality, given)
        orders = compress(items, settings, by_place=self.has_positions)
        projected = self.project(torch.cat([order.features for order in orders]))
        kept = []
        for item, features, (_, place, whole) in zip(
            items, projected.split([len(order.place) for order in orders]), orders, strict=True
        ):
            if item.newline is not None:
                features, place = with_newlines(item, features, place, whole)
            exact = self.has_positions or whole
            slots = place if exact else torch.arange(len(place), device=place.device)
            kept.append(Kept(features, slots, item.size))
        return kept

    def shorten(self, given: dict[str, Any], kept: dict[str, list[Kept]]) -> dict[str, Any]:
        """The arguments of a call with a placeholder for every cell -> those of one with a
        placeholder for each that is kept, and without pixels."""
        ids: Tensor = given["input_ids"]
        keep = torch.ones_like(ids, dtype=torch.bool)
        for modality, items in kept.items():
            at = ids == self.token_id(modality)
            starts = torch.tensor([0, *(item.size for item in items)]).cumsum(0).tolist()
            if int(at.sum()) != starts[-1]:
                raise ValueError(
                    f"{int(at.sum())} {modality} placeholders in the prompt for {starts[-1]} "
                    "features: give what the model's own processor makes"
                )
            stay = torch.zeros(starts[-1], dtype=torch.bool, device=ids.device)
            for start, item in zip(starts, items, strict=False):
                stay[start + item.slots.to(ids.device)] = True
            keep[at] = stay
        described = {name for names in self.arguments.values() for name in names}
        short = {k: v for k, v in given.items() if v is not None and k not in described}
        for name, fill in (
            ("input_ids", self._padding()), ("attention_mask", 0), ("labels", -100),
            ("mm_token_type_ids", 0), ("token_type_ids", 0),
        ):  # fmt: skip
            if name in short:
                short[name] = take_rows(short[name], keep, fill)
        if len(ids) > 1 and "attention_mask" not in short:  # rows may be padded now
            short["attention_mask"] = take_rows(torch.ones_like(ids), keep, 0)
        short.pop("position_ids", None)
        if (whole := self.positions(given)) is not None:
            mask = short.get("attention_mask", torch.ones_like(short["input_ids"]))
            # The text row is gapless, or 1-D positions would be taken for packed sequences.
            text = (mask.cumsum(-1) - 1).clamp(min=0)
            rows = [text, *(take_rows(row, keep, 0) for row in whole[0])]
            short["position_ids"] = torch.stack([row.to(text) for row in rows])
            # For what follows, where nobody gives positions; it lives on the model.
            self.core.rope_deltas = whole[1] + (ids.shape[1] - short["input_ids"].shape[1])
        return short

    def tell(self, given: dict[str, Any], kept: dict[str, list[Kept]]) -> dict[str, Any]:
        """As `shorten`, with the features in place of the pixels."""
        handed = {
            modality: self.hand_over(modality, [item.features for item in items])
            for modality, items in kept.items()
        }
        return self.shorten(given, kept) | {"mm_encoder_outputs": handed}

    def _padding(self) -> int:
        return int(self.core.config.get_text_config().pad_token_id or 0)
