"""The command line: its commands, and what becomes of errors and signals.

Answers go to stdout, progress and facts to stderr; the exit status is not 0 where anything failed.
Heavy imports stay inside the commands, so that `--help` answers at once.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Annotated

import typer

from vzvideo.cli import ask, bench, cache, chat, check, corpus, encode, eval, models, show, stream
from vzvideo.cli.options import be_quiet, say
from vzvideo.errors import VzVideoError

app = typer.Typer(
    name="vzvideo",
    help="Ask questions of video with a vision-language model, at a fraction of the tokens.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_ANYWHERE = ("--debug", "--quiet", "-q")


def main(argv: list[str] | None = None) -> None:
    """The console script: runs a command and turns what goes wrong into one line and a status."""
    arguments = sys.argv[1:] if argv is None else argv
    # PyTorch's threads would keep a core while they wait for work, which decoding could use: of a
    # 10-minute 1080p video 8 frames took 1.6 s instead of 1.9 on two cores, 32 took 6.3 s instead
    # of 7.2.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # Wherever they stand: a person thinks of them last.
    end = arguments.index("--") if "--" in arguments else len(arguments)
    given = set(arguments[:end])
    arguments = [a for a in arguments[:end] if a not in _ANYWHERE] + arguments[end:]
    debug = "--debug" in given or bool(os.environ.get("VZVIDEO_DEBUG"))
    be_quiet(bool(given & {"--quiet", "-q"}))
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _terminate)
    try:
        status = app(arguments, standalone_mode=False)
    except KeyboardInterrupt:
        status = 130
    except _Terminated:
        status = 143
    except VzVideoError as error:
        if debug:
            raise
        typer.echo(f"vzvideo: {error}", err=True)
        status = 1
    except Exception as error:
        status = _usage(error)
        if status is None:
            if debug:
                raise
            typer.echo(f"vzvideo: {_unexpected(error)}", err=True)
            status = 1
    if status in (130, 143):
        say("vzvideo: interrupted" if status == 130 else "vzvideo: terminated")
    sys.exit(status)


class _Terminated(BaseException):
    """Somebody wants this process to end; it ends as it does after Ctrl-C, in order."""


def _terminate(*_: object) -> None:
    raise _Terminated


def _usage(error: Exception) -> int | None:
    """Prints what typer has to say of a wrong command line; None where the error is another."""
    kinds = {kind.__name__ for kind in type(error).__mro__}
    if "Abort" in kinds:
        return 130
    if "ClickException" in kinds:
        error.show()  # type: ignore[attr-defined]
        return int(error.exit_code)  # type: ignore[attr-defined]
    return None


def _unexpected(error: Exception) -> str:
    # By name, for torch is not imported here; on the CPU it raises a plain RuntimeError.
    lacks = type(error).__name__ == "OutOfMemoryError" or isinstance(error, MemoryError)
    if lacks or "can't allocate memory" in str(error):
        return (
            "out of memory: choose fewer --frames or --num-beams, --quantize 4bit, or another "
            "--device"
        )
    return (
        f"unexpected {type(error).__name__}: {' '.join(str(error).split())}; this is a bug: run it "
        "again with --debug and report what it prints"
    )


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of errors.")] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Only answers and errors: no progress, no facts.")
    ] = False,
) -> None:
    if version:
        from vzvideo._version import __version__

        typer.echo(__version__)
        raise typer.Exit


# In the order in which `--help` lists them.
_COMMANDS: dict[str, Callable[..., None]] = {
    "ask": ask.ask,
    "chat": chat.chat,
    "encode": encode.encode,
    "show": show.show,
    "watch": stream.watch,
    "batch": corpus.batch,
    "index": corpus.index,
    "eval": eval.evaluate,
    "bench": bench.bench,
    "models": models.models,
    "pull": models.pull,
    "check": check.check_model,
    "cache": cache.cache,
}
for name, command in _COMMANDS.items():
    app.command(name)(command)


if __name__ == "__main__":
    main()
