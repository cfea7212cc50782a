"""API keys: 256 random bits, shown once, of which only a digest is kept.

`bm_<id>_<secret>`: the id is public and finds the row, the secret proves that the caller was given the key. A fast
hash is right here, unlike for passwords: nobody guesses 256 random bits, so there is nothing to slow down.
"""

from __future__ import annotations

import hashlib
import re
import secrets

SECRET_BYTES = 32
ID_BYTES = 6  # 48 bits: two of 10,000 keys share an id with a chance of 2 in 10 million, and then the insert fails
KEY = re.compile(r"bm_([0-9a-f]{12})_[A-Za-z0-9_-]{43}")
NO_DIGEST = bytes(hashlib.sha256().digest_size)  # what an unknown id is compared with: no input is known to hash to it


def new_key() -> tuple[str, str]:
    """A fresh (id, whole key)."""
    number = secrets.token_hex(ID_BYTES)
    return number, f"bm_{number}_{secrets.token_urlsafe(SECRET_BYTES)}"


def key_id(key: str) -> str | None:
    """The id in a key; None when the text cannot be a key (also when it is too long)."""
    found = KEY.fullmatch(key)
    return found[1] if found else None


def digest(key: str) -> bytes:
    """What is stored of a key: SHA-256, 32 bytes."""
    return hashlib.sha256(key.encode(errors="replace")).digest()
