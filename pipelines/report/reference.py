"""Makes `docs/cli.md`: every command with its help, as the command line itself gives it.

python -m pipelines.report.reference            # writes the page
python -m pipelines.report.reference --check    # fails where it is stale
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import typer

from vzvideo.cli.main import app

PAGE = Path(__file__).resolve().parents[2] / "docs" / "cli.md"
_HEAD = """\
<!-- Made by `python -m pipelines.report.reference`. -->

# The command line

Answers go to stdout, progress and facts to stderr, and the exit status is not 0 where anything
failed. `--json` prints one object on one line for each answer (`answer, question, source, model,
frame_times_s, tokens_before, tokens, seconds, cached, duration_s, promised_s, asked, decoded,
lost, cropped`; `promised_s` is the length that the file's header promises, more than `duration_s`
where it breaks off, `cropped` the share of each frame that the model does not see) or failure
(`question, source, stage, error, message`). Settings come from the defaults, then a YAML file
(`--config`, see [configs/](../configs)), then the options. `--debug` shows the traceback of an
error.
"""


def page() -> str:
    """The whole page, Markdown."""
    group = typer.main.get_command(app)
    context = group.make_context("vzvideo", ["models"], resilient_parsing=True)
    parts = [_HEAD]
    for name in group.list_commands(context):  # type: ignore[attr-defined]
        command = group.get_command(context, name)  # type: ignore[attr-defined]
        inner = command.make_context(name, [], parent=context, resilient_parsing=True)
        usage = " ".join(inner.command.collect_usage_pieces(inner))
        rows = ["| option | what it does |", "|---|---|"]
        for parameter in command.params:
            record = parameter.get_help_record(inner)
            if record and not parameter.hidden:
                rows.append("| `{}` | {} |".format(*(_cell(text) for text in record)))
        about = " ".join((command.help or "").split())
        parts.append(
            f"## vzvideo {name}\n\n{about}\n\n`vzvideo {name} {usage}`\n\n" + "\n".join(rows)
        )
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; fail if stale")
    args = parser.parse_args()
    made = page()
    if not args.check:
        PAGE.write_text(made, encoding="utf-8")
    elif PAGE.read_text(encoding="utf-8") != made:
        sys.exit(f"{PAGE}: stale; run `python -m pipelines.report.reference`")


if __name__ == "__main__":
    main()
