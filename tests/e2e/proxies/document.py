"""The directives of docs/formats.md, as a reader would copy them: so that it is the document that is tested."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = Path(__file__).resolve().parents[3] / "docs" / "formats.md"
SECTION = re.compile(r"^## (.*)$", re.MULTILINE)
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def directives(format_name: str) -> list[tuple[str, str]]:
    """The blocks of a format's section, each with its language, but for the commands of a reader."""
    _, *parts = SECTION.split(PAGE.read_text())
    (text,) = [
        text for heading, text in zip(parts[::2], parts[1::2], strict=True) if heading.endswith(f"`{format_name}`")
    ]
    return [(language, block) for language, block in BLOCK.findall(text) if language != "console"]


def directive(format_name: str, number: int = 0) -> str:
    """One of them."""
    return directives(format_name)[number][1]
