"""The console script: errors become a message, a hint and an exit code; the unexpected keeps its traceback."""

from __future__ import annotations

import gc
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from typing import NoReturn

from builder import cli
from builder.console import Console, PlainConsole
from builder.errors import BuilderError

EXIT_UNEXPECTED = 70
EXIT_INTERRUPTED = 130
EXIT_BROKEN_PIPE = 141
EXIT_TERMINATED = 143
#: Python looks for circular garbage after so many new objects. Its own 700 cost a twentieth of a build, nearly all of
#: it while modules are imported.
_GARBAGE_AFTER = 50_000


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code."""
    gc.set_threshold(_GARBAGE_AFTER)
    console: Console = PlainConsole(out=sys.stdout, err=sys.stderr)
    before = signal.signal(signal.SIGTERM, _terminated)
    try:
        arguments = cli.parse(list(sys.argv[1:] if argv is None else argv))
        console = cli.console_for(arguments)
        return cli.run_command(arguments, console)
    except BuilderError as error:
        console.error(error.message, error.hint, error.exit_code)
        return error.exit_code
    except KeyboardInterrupt as interrupt:
        code = EXIT_TERMINATED if isinstance(interrupt, _Terminated) else EXIT_INTERRUPTED
        console.error("interrupted; temporary files are removed", "", code)
        return code
    except BrokenPipeError:
        # Whoever read our output has gone (`bluelift plan | head`); Python would complain again while closing it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_BROKEN_PIPE
    except Exception:  # the last resort: everything expected is a BuilderError
        console.error(
            "this is a defect of Bluelift\n" + traceback.format_exc().rstrip(),
            "Please report it with the lines above and the command that you typed.",
            EXIT_UNEXPECTED,
        )
        return EXIT_UNEXPECTED
    finally:
        signal.signal(signal.SIGTERM, before)


class _Terminated(KeyboardInterrupt):
    """SIGTERM: cleans up as Ctrl-C does."""


def _terminated(*_: object) -> NoReturn:
    raise _Terminated


if __name__ == "__main__":
    sys.exit(main())
