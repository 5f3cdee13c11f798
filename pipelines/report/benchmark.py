"""`vzvideo bench ...` as a script, for `ray job submit` and the like.

    python -m pipelines.report.benchmark --out results.json
    python -m pipelines.report.benchmark encoder prefill --quick --out quick.json
    python -m pipelines.report.benchmark --geometry video-llava-7b --out gpu.json

`vzvideo bench --help` says the rest.
"""

from __future__ import annotations

import sys

from vzvideo.cli.main import main

if __name__ == "__main__":
    main(["bench", *sys.argv[1:]])
