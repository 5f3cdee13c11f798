"""The one family of errors that reaches a user, each as one line.

Knows nothing else of the package. A message says what was given, what is allowed, and what to do.
"""

from __future__ import annotations

import re

_LOGIN = re.compile(r"(\w+://)[^\s/@]+@")  # user and password of a URL


class VzVideoError(Exception):
    """Something a user can act on.

    Args:
        message: one line: what was given, what is allowed, what to do.
        code: a short machine-readable word, kept in `Failure.error` (`"not_found"`, `"no_video"`).
    """

    code = "error"

    def __init__(self, message: str, *, code: str | None = None) -> None:
        super().__init__(mask_logins(message))
        if code is not None:
            self.code = code

    def __reduce__(self) -> tuple[object, ...]:  # keeps `code` across process borders
        return (_rebuild, (type(self), str(self), self.code))


def mask_logins(text: str) -> str:
    """Without users and passwords of URLs: lines are logged, and sent to others."""
    return _LOGIN.sub(r"\1***@", text)


def _rebuild(kind: type[VzVideoError], message: str, code: str) -> VzVideoError:
    return kind(message, code=code)


class VideoError(VzVideoError):
    """The video cannot be opened, or gives no frames."""

    code = "video"


class BudgetError(VzVideoError):
    """The frames and tokens asked for do not fit the model's window."""

    code = "budget"


class ModelError(VzVideoError):
    """The model is unknown, cannot be loaded, or does not fit the tokens it is given."""

    code = "model"


class SettingsError(VzVideoError):
    """A setting has an unknown name or a value outside its range."""

    code = "settings"


class TokenFileError(VzVideoError):
    """A file of visual tokens is damaged, or is not one."""

    code = "tokens"
