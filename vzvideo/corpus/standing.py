"""Which rows of a former run still stand, and why the others have to be made again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from vzvideo.corpus.results import Row
from vzvideo.words import pluralize

# What rows are held against each other by.
COLUMNS = ("id", "video", "start_s", "end_s", "settings", "version", "error", "message", "question")
_WHY = {
    "settings": "made with other settings",
    "version": "of a video changed since",
    "question": "of another question",
    "error": "that failed",
}


def standing_rows(
    before: dict[str, Row], wanted: dict[str, Row], retry_failed: bool, say: Callable[[str], None]
) -> tuple[dict[str, Row], int]:
    """Rows that need not be made again, by id, and how many are to be; `say` is told of both.

    before: the rows there are. wanted: those of this run, by id, without their outcome.
    retry_failed: what failed is to be made again.
    """
    why: Counter[str] = Counter()
    standing = {}
    for name in before.keys() & wanted.keys():
        reason = stale_column(before[name], wanted[name], retry_failed)
        if reason:
            why[reason] += 1
        else:
            standing[name] = before[name]
    for reason, count in why.items():
        say(f"{pluralize(count, 'row')} {_WHY.get(reason, 'of another video')}: made again")
    if others := len(before) - len(standing) - why.total():
        say(f"of other questions, left where they are: {pluralize(others, 'row')}")
    if standing:
        failed = sum(row["error"] is not None for row in standing.values())
        again = f", {failed} of them failed (--retry-failed tries again)" if failed else ""
        say(f"there already: {pluralize(len(standing), 'row')}{again}")
    return standing, why.total()


def stale_column(row: Row, wanted: Row, retry_failed: bool) -> str:
    """The column for which a row has to be made again, or nothing."""
    if row["error"] and retry_failed:
        return "error"
    for name in ("settings", "question", "start_s", "end_s"):
        if name in row and row[name] != wanted[name]:
            return name
    if row["version"] != wanted["version"]:
        # A video that cannot be looked at now may well be the one that was.
        return "version" if wanted["version"] or row["error"] else ""
    # The same file may have been named otherwise, from another folder.
    same = row["video"] == wanted["video"] or bool(row["version"])
    return "" if same else "video"
