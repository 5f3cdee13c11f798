"""`vzvideo check`: does a model work here, exactly?"""

from __future__ import annotations

from typing import Annotated

import typer

from vzvideo.cli.options import Json, echo_json, load


def check_model(
    name: Annotated[str, typer.Argument(help="A name of `vzvideo models`, a hub id, a folder.")],
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    dtype: Annotated[str, typer.Option(help="auto, float32, float16 or bfloat16.")] = "auto",
    as_json: Json = False,
) -> None:
    """See whether a model works here: its own forward against ours, and four sure questions.

    The exit status is 1 where the first part does not hold.
    """
    from rich.console import Console
    from rich.table import Table

    from vzvideo import config
    from vzvideo.models import check

    qa = load(config.load(model=name, device=device, dtype=dtype, cache=False))
    exact = check.exactness(qa.encoder, qa.language)
    said = check.answers(qa.encoder, qa.language, qa.recipe(keep=0.25).compression)
    held = all(each.holds for each in exact)
    if as_json:
        echo_json(
            {
                "model": qa.name,
                "exact": held,
                "logits": [vars(each) | {"holds": each.holds} for each in exact],
                "answers": [
                    vars(each)
                    | {
                        "whole_right": each.right(each.whole),
                        "compressed_right": each.right(each.compressed),
                    }
                    for each in said
                ],
            }
        )
    else:
        table = Table(box=None, pad_edge=False)
        for heading in ("uncompressed logits of", "largest difference", "allowed", "holds"):
            table.add_column(heading)
        for one in exact:
            holds = "yes" if one.holds else "NO"
            table.add_row(one.what, f"{one.largest:.2g}", f"{one.allowed:.2g}", holds)
        asked = Table(box=None, pad_edge=False)
        for heading in ("question", "answer", "whole", "a quarter of the tokens"):
            asked.add_column(heading, overflow="fold")
        for each in said:
            marks = (
                f"{'yes' if each.right(text) else 'no'}: {text}"
                for text in (each.whole, each.compressed)
            )
            asked.add_row(each.question, each.accepted[0], *marks)
        console = Console(highlight=False)
        console.print(table)
        console.print()
        console.print(asked)
    if not held:
        raise typer.Exit(1)
