"""A Python process that answers pickled requests, for work that may hang, grow or crash.

Knows nothing of what it answers. Started as a module of its own, not by multiprocessing, which
would run the caller's main module in the child again.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from threading import Thread, Timer
from typing import Any


class Died(Exception):
    """The child is gone: killed by us, for it was `late`, or by whatever else, with `status`."""

    def __init__(self, *, late: bool, status: int | None) -> None:
        super().__init__("late" if late else f"status {status}")
        self.late, self.status = late, status


class Child:
    """Runs `python -m module` and asks it things. Not for several threads at once."""

    def __init__(self, module: str, arguments: Sequence[str] = ()) -> None:
        """module: one that calls `serve` when it is run; arguments: of its command line."""
        self._late = False
        self._process: subprocess.Popen[bytes] | None = subprocess.Popen(
            [sys.executable, "-P", "-m", module, *arguments],  # -P: not the user's own files
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )

    @property
    def alive(self) -> bool:
        """Whether it can be asked."""
        return self._process is not None and self._process.poll() is None

    def ask(self, request: Any, deadline_s: float) -> Any:
        """The answer. Raises Died where none came within `deadline_s`, or at all."""
        process = self._process
        if process is None or process.stdin is None or process.stdout is None:
            raise Died(late=False, status=None)
        # It may hold on to the interpreter: nothing gentler than a kill reaches it.
        timer = Timer(deadline_s, self._give_up, [process])
        timer.start()
        try:
            pickle.dump(request, process.stdin, protocol=pickle.HIGHEST_PROTOCOL)
            process.stdin.flush()
            return pickle.load(process.stdout)
        except (EOFError, OSError, pickle.UnpicklingError):
            with suppress(subprocess.TimeoutExpired):  # its pipe ends a little before it does
                process.wait(1.0)
            self.close()
            raise Died(late=self._late, status=process.returncode) from None
        except BaseException:  # an answer that nobody took would be taken for the next one
            self.close()
            raise
        finally:
            timer.cancel()

    def close(self) -> None:
        """Kills it and waits for its end."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            with suppress(BrokenPipeError), process:  # which closes the pipes and waits
                pass

    def _give_up(self, process: subprocess.Popen[bytes]) -> None:
        self._late = True
        process.kill()


def serve(answer: Callable[[Any], Any]) -> None:
    """The child's side: answers what it is asked, one after the other, until its parent ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears Ctrl-C, and ends this
    Thread(target=_end_with, args=[os.getppid()], daemon=True).start()
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # whatever a library prints is no answer
    for request in _requests():
        pickle.dump(answer(request), answers, protocol=pickle.HIGHEST_PROTOCOL)
        answers.flush()


def _end_with(parent: int) -> None:
    """Ends the process soon after its parent did, whatever else it does just then."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)


def _requests() -> Iterator[Any]:
    while True:
        try:
            yield pickle.load(sys.stdin.buffer)
        except EOFError:
            return
