"""Which tests may be skipped, and why: with `--strict-skips` any other reason fails the run."""

from __future__ import annotations

import re
from typing import Any

import pytest

ALLOWED = (
    "needs a CUDA device",
    "of a machine without a GPU",
    "nothing is forbidden to root",
    "no Chromium on this machine",
    "no RTSP server",
    "torchcodec is not installed",
)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--strict-skips", action="store_true", help="fail on skips not foreseen")


class Skips:
    """Notes every skip, and fails the run where one is for a reason that nobody foresaw."""

    def __init__(self) -> None:
        self.unforeseen: set[str] = set()

    def pytest_runtest_logreport(self, report: Any) -> None:
        self._note(report)

    def pytest_collectreport(self, report: Any) -> None:
        self._note(report)

    def _note(self, report: Any) -> None:
        if not report.skipped or hasattr(report, "wasxfail"):
            return
        reason = str(report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr)
        if not any(re.search(re.escape(allowed), reason) for allowed in ALLOWED):
            self.unforeseen.add(f"{report.nodeid}: {reason}")

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self.unforeseen and session.exitstatus == 0:
            session.exitstatus = 1

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        if self.unforeseen:
            terminalreporter.section("skipped for no reason that was foreseen (tests/skips.py)")
            for line in sorted(self.unforeseen):
                terminalreporter.line(line)


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("strict_skips") and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Skips(), "skips")
