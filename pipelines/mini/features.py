"""What the vision tower makes of every picture that training shows, computed once.

Training sees each picture many times and at many budgets, and the tower never changes: features,
scores and keys are kept, and VisionZip takes from them what a budget asks for.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from pipelines.mini.clips import View, picture
from vzvideo import visionzip
from vzvideo.models.encoder import Encoder, Scored

WHOLE_FRAME = (257, 0)  # dominant and contextual tokens of a frame that keeps them all


class Features:
    """The tower's features, scores and keys of every view, computed once and kept in shards."""

    SHARD = 256

    def __init__(
        self, folder: Path, encoder: Encoder, images: Sequence[bytes], views: Sequence[View]
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._place = {view: i for i, view in enumerate(views)}
        # Mapped from the disk, not read into memory: they are larger than what training needs.
        self._shards = []
        for start in range(0, len(views), self.SHARD):
            path = folder / f"{start:06d}.safetensors"
            if not path.exists():
                scored = _score(encoder, images, views[start : start + self.SHARD])
                part = path.with_suffix(".part")
                # Scores stay whole: in half precision close ones would tie and others be chosen.
                stored = {"hidden": scored.hidden.half(), "keys": scored.keys.half()}
                stored["scores"] = scored.scores.float()
                save_file({name: value.cpu() for name, value in stored.items()}, part)
                part.rename(path)
                print(f"features {min(start + self.SHARD, len(views))}/{len(views)}", flush=True)
            self._shards.append(load_file(path))

    def compressed(self, views: Sequence[View], dominant: int, contextual: int) -> Tensor:
        """Views -> float32 (len(views), tokens a view, D)."""
        places = [divmod(self._place[view], self.SHARD) for view in views]
        hidden, scores, keys = (
            torch.stack([self._shards[shard][name][row].float() for shard, row in places])
            for name in Scored._fields
        )
        if (dominant, contextual) == WHOLE_FRAME:
            return hidden
        return visionzip.compress(hidden, scores, keys, dominant, contextual).features

    def clips(self, clips: Sequence[Sequence[View]], dominant: int, contextual: int) -> Tensor:
        """Clips of equally many frames -> float32 (clips, tokens a clip, D)."""
        seen = list(dict.fromkeys(view for clip in clips for view in clip))
        tokens = self.compressed(seen, dominant, contextual)
        place = {view: i for i, view in enumerate(seen)}
        index = torch.tensor([[place[view] for view in clip] for clip in clips])
        return tokens[index].flatten(1, 2)


@torch.inference_mode()
def _score(
    encoder: Encoder, images: Sequence[bytes], views: Sequence[View], batch: int = 32
) -> Scored:
    parts = []
    for start in range(0, len(views), batch):
        pixels = [
            torch.from_numpy(np.array(picture(images[view.row], view)))
            for view in views[start : start + batch]
        ]
        inputs = torch.cat([encoder.preprocess(each.unsqueeze(0)) for each in pixels])
        parts.append(encoder.score(inputs))
    return Scored(*(torch.cat(column) for column in zip(*parts, strict=True)))
