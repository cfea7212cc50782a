"""Call one tool of an MCP server over its standard input, and print what it says. Runs in the clients' environment.

call_tool.py SERVER TOOL ARGUMENTS_AS_JSON
"""

from __future__ import annotations

import asyncio
import json
import os
import sys

from mcp import ClientSession, StdioServerParameters
from mcp.client.stdio import stdio_client


async def _call(server: str, tool: str, arguments: dict[str, object]) -> str:
    parameters = StdioServerParameters(command=server, env=dict(os.environ))
    async with stdio_client(parameters) as (reader, writer), ClientSession(reader, writer) as session:
        await session.initialize()
        answer = await session.call_tool(tool, arguments)
        return "\n".join(getattr(part, "text", "") for part in answer.content)


if __name__ == "__main__":
    print(asyncio.run(_call(sys.argv[1], sys.argv[2], json.loads(sys.argv[3]))))  # noqa: T201
