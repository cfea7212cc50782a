"""Bodies that were sent to us: taken apart, handed to the one process that counts, each counted once."""

from __future__ import annotations

PATH = "POST /v1/records"  # where a file's source has its path
PATH_OF_ACCOUNT = f"{PATH} of "  # the same of what an account's own key has sent, before its name
