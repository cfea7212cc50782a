"""`make bench`: all benchmarks, or those named: `python -m bench ingest answers`."""

from __future__ import annotations

import sys

from bench import answers, ingest, posts, tail, workers

ALL = {"ingest": ingest.main, "answers": answers.main, "workers": workers.main, "posts": posts.main, "tail": tail.main}

if __name__ == "__main__":
    for name in sys.argv[1:] or ALL:
        ALL[name]()
