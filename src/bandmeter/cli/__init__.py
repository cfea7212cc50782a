"""The command line: parse, call, print.

Exit status: 0 done, 1 some input rejected (or `doctor` or `verify` found something), 2 a mistake of the caller's,
3 our failure.
Errors are one sentence on standard error that says what to do; BANDMETER_DEBUG=1 adds the traceback.
"""

from __future__ import annotations

import gc
import os
import sys
import traceback
from collections.abc import Sequence

from bandmeter import __version__
from bandmeter.domain import errors
from bandmeter.domain.errors import BandmeterError

DONE, REJECTED, USAGE, FAILED = 0, 1, 2, 3
OURS = frozenset({errors.FAILURE, errors.UNAVAILABLE})  # every other code is a mistake of the caller's
# How the parser words what it found, and what a reader can use.
PHRASES = {
    "Value error, ": "",
    "Input should be a valid integer, unable to parse string as an integer": "it takes a whole number",
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and exit with its status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given == ["--version"]:  # answered before half a second of imports
        sys.stdout.write(f"bandmeter {__version__}\n")
        sys.exit(DONE)
    sys.exit(_run(given))


def _run(arguments: list[str]) -> int:
    gc.disable()  # what is imported stays: looking for garbage in it takes a seventh of the start
    # numpy starts a thread for each processor, for products that nobody here computes: a fifth of the start's work.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from typer.exceptions import Abort, TyperException  # noqa: PLC0415 - see main

    from bandmeter.cli.app import build  # noqa: PLC0415

    gc.enable()

    try:
        status = build()(arguments, prog_name="bandmeter", standalone_mode=False)
    except BandmeterError as error:
        _say(error.sentence)
        return FAILED if error.code in OURS else USAGE
    except TyperException as error:
        return _explain_usage(error)
    except Abort:
        _say("Stopped.")
        return 128 + 2  # as a shell tells of SIGINT
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader has had enough: nothing to flush
        return DONE
    except Exception as error:  # noqa: BLE001 - the last place where one can be told in a sentence
        _say(f"Bandmeter failed ({type(error).__name__}: {error}): run `bandmeter doctor`, or see BANDMETER_DEBUG=1.")
        return FAILED
    return status if isinstance(status, int) else DONE


def _explain_usage(error: Exception) -> int:
    context = getattr(error, "ctx", None)
    command = context.command_path if context else "bandmeter"
    sentence = error.format_message() if hasattr(error, "format_message") else str(error)
    if not sentence:  # a group alone: its help has been printed, and is all there is to say
        return USAGE
    for phrase, words in PHRASES.items():
        sentence = sentence.replace(phrase, words)
    _say(f"{sentence.rstrip('.')}: see `{command} --help`.")
    return USAGE


def _say(sentence: str) -> None:
    if os.environ.get("BANDMETER_DEBUG"):
        traceback.print_exc()
    sys.stderr.write(f"bandmeter: {' '.join(sentence.split())}\n")
