"""VisionZip without any of the rest: on the tower, the features and the model of your own.

    python examples/method_alone.py

The tower here is small and random, so that the example runs anywhere; put yours in its place.
"""

import torch
from transformers import CLIPVisionConfig, CLIPVisionModel

from vzvideo import visionzip

tower = CLIPVisionModel(
    CLIPVisionConfig(
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=4,
        num_attention_heads=4,
        patch_size=14,
    )
).eval()
heads, head_dim = 4, 16

# The scoring layer's queries and keys, by two hooks; fused attention gives no weights back.
seen: dict[str, torch.Tensor] = {}
attention = tower.encoder.layers[-2].self_attn
for name in ("q_proj", "k_proj"):
    getattr(attention, name).register_forward_hook(
        lambda _module, _inputs, output, name=name: seen.update({name: output})
    )
with torch.inference_mode():
    states = tower(torch.randn(2, 3, 224, 224), output_hidden_states=True).hidden_states
query, keys = (
    seen[name].unflatten(-1, (heads, head_dim)).transpose(1, 2) for name in ("q_proj", "k_proj")
)

scores = visionzip.cls_attention(query[:, :, :1], keys, head_dim**-0.5)
zipped = visionzip.compress(states[-2], scores, visionzip.mean_keys(keys), 54, 10)
print("from", tuple(states[-2].shape), "to", tuple(zipped.features.shape))
print("the first picture's dominant tokens:", zipped.patch[0, :54].tolist())
print("patches merged into its last token:", (zipped.assignment[0] == 63).sum().item())
