"""Log files: where a content was counted to, reading on from there, and following what grows."""
