"""What `mini`'s odds of a yes are worth: fitted on dev, kept in the adapter.

    python -m pipelines.mini.calibrate --data data/ --wheels wheels/ --work work/ --adapter FILE

Of every written question of the dev split that is answered by yes or no, as many of either, the
log odds x of the two words become the probability of yes 1 / (1 + exp(-(scale x + shift))) (Platt
1999). Half of the pictures are fitted on and the other half says how far off it is, before and
after; what is kept is fitted on all.
"""

from __future__ import annotations

import json
import random

import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from pipelines.mini.data import read_data
from pipelines.mini.measure import BUDGET, YES_NO, features_of, options, read_speaker

BINS = 10


def fit(odds: Tensor, truth: Tensor) -> tuple[float, float]:
    """Log odds (N,) and whether yes is right (N,) -> scale and shift of the least mean loss."""
    weights = torch.tensor([1.0, 0.0], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        logits = weights[0] * odds.double() + weights[1]
        # Drawn a little towards 1 and 0, so that few questions that are all right give no infinity.
        value = F.binary_cross_entropy_with_logits(logits, truth.double())
        value = value + ((weights - weights.new_tensor([1.0, 0.0])) ** 2).sum() / len(odds)
        value.backward()
        return value

    optimizer.step(loss)
    scale, shift = weights.tolist()
    return scale, shift


def calibration_error(probability: Tensor, truth: Tensor) -> float:
    """Expected calibration error (Guo et al. 2017) over ten bins of equal width, 0..1."""
    bins = (probability * BINS).long().clamp(max=BINS - 1)
    gaps = [
        float((probability[bins == n].mean() - truth[bins == n].double().mean()).abs())
        * float((bins == n).sum())
        for n in bins.unique().tolist()
    ]
    return sum(gaps) / len(probability)


def main() -> None:
    args = options(__doc__).parse_args()
    data = read_data(args.data)
    rows = [(e, *qa) for e in data.split("dev") for qa in e.qa if qa[1] in YES_NO]
    by_truth = [[row for row in rows if row[2] == truth] for truth in YES_NO]
    count = min(map(len, by_truth))
    rng = random.Random(0)
    rows = [row for each in by_truth for row in rng.sample(each, count)]
    features = features_of([example for example, *_ in rows], data, args.wheels, args.work)
    speaker = read_speaker(args.wheels, args.adapter)
    odds = torch.tensor([
        speaker.yes_odds(features.compressed(example.views, BUDGET).flatten(0, 1), question)
        for example, question, _ in rows
    ])  # fmt: skip
    truth = torch.tensor([answer == "Yes." for *_, answer in rows])
    names = sorted({example.name for example, *_ in rows})
    some = set(rng.sample(names, len(names) // 2))
    fitted = torch.tensor([example.name in some for example, *_ in rows])
    scale, shift = fit(odds[fitted], truth[fitted])
    rest, right = odds[~fitted], truth[~fitted]
    before = calibration_error(rest.sigmoid(), right)
    after = calibration_error((scale * rest + shift).sigmoid(), right)
    print(f"{len(rest)} questions of {len(names) - len(some)} pictures not fitted on: "
          f"calibration error {before:.3f} before, {after:.3f} after")  # fmt: skip
    kept = [round(value, 4) for value in fit(odds, truth)]
    with safe_open(args.adapter, "pt") as file:
        about = file.metadata()
    save_file(load_file(args.adapter), args.adapter, about | {"yes_no": json.dumps(kept)})
    print(f"scale {kept[0]}, shift {kept[1]}, of {len(rows)} questions: kept in {args.adapter}")


if __name__ == "__main__":
    main()
