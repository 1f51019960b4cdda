"""What every command shares: flags, overrides, exit codes, one JSON object on stdout.

A command is one file that builds a `Command` and names its `main`:

    def add_flags(parser):                     # argparse flags of this command only
        parser.add_argument("--episodes", type=int, default=100, help="...")

    def select(flags) -> list[str]:            # choices and plain values made before composing, checked here
        return [f"task={flags.env}"]

    def configure(config, flags) -> None:      # paths and values set after composing
        config.seed = flags.seed

    def run(job: Job) -> int:                  # the work; raise ValueError for what the user must mend
        job.say("written to ...")              # stderr, unless --quiet
        job.print_result({"env": ...}, text="a table for people")
        return DONE                            # or NOT_REACHED

    COMMAND = Command("wm-x", "One sentence.", run=run, add_flags=add_flags, flags=("env", "seed", "out"),
                      config="x", select=select, configure=configure, examples=("wm-x --env reacher",))
    main = COMMAND.main                        # the console script; `main(argv) -> exit code`

Nothing heavy is imported at the top of a command's file: `--help` must answer at once. `config` names
`configs/<config>.yaml`; without it the command takes no overrides. `run` imports what it needs.

Exit codes: 0 done (and reached), 3 done but the goal was not reached, 2 wrong input (one line on stderr,
no traceback), 130 stopped with Ctrl-C, 1 a bug of ours (traceback). Every `ValueError`, `ImportError` and
`UserInputError` that our own code raises is wrong input; one that comes from inside another library is a bug.
Progress and messages go to stderr. With `--json` stdout carries exactly one JSON object, whatever a
library prints.
"""

from __future__ import annotations

import argparse
import dis
import errno
import json
import math
import os
import re
import shlex
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NoReturn

from wm_plan.suggestion import did_you_mean

if TYPE_CHECKING:
    from rich.console import Console

DONE, BUG, WRONG_INPUT, NOT_REACHED, INTERRUPTED = 0, 1, 2, 3, 130

_OVERRIDE = re.compile(r"[+~]?[\w./]+=")
_PACKAGE = Path(__file__).resolve().parents[1]
_OWN_FOLDERS = tuple(
    str(folder.resolve()) + os.sep
    for folder in (_PACKAGE, *(_PACKAGE / name for name in ("envs", "planners", "world_model", "configs")))
)


class UserInputError(ValueError):
    """Wrong input, said in one line: what was given, what is allowed, what to do."""


# --- flags ----------------------------------------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        raise UserInputError(f"{message}. See {self.prog} --help.")


def positive_int(text: str) -> int:
    """Read a whole number of at least 1 (an argparse type)."""
    try:
        value = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is too small; it must be at least 1")
    return value


def seed_int(text: str) -> int:
    """Read a seed: a whole number from 0 to 2**31 - 1 (an argparse type)."""
    try:
        value = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None
    if not 0 <= value < 2**31:
        raise argparse.ArgumentTypeError(f"{text} is out of range; seeds go from 0 to 2147483647")
    return value


def _add_shared_flag(parser: argparse.ArgumentParser, name: str) -> None:
    match name:
        case "env":
            parser.add_argument("--env", metavar="NAME", help="the task; --list names the built-in ones")
        case "model":
            parser.add_argument(
                "--model",
                metavar="DIR|ID",
                help="a predictor of your own: a folder that wm-train made, or an id of the hub (owner/name)",
            )
        case "seed":
            parser.add_argument(
                "--seed", type=seed_int, metavar="N", help="seed of all that is random (default 0)"
            )
        case "out":
            parser.add_argument(
                "--out",
                type=Path,
                metavar="DIR",
                help="where to write (default: a new numbered folder in runs/)",
            )
            parser.add_argument("--overwrite", action="store_true", help="write even if --out is not empty")
        case "resume":
            parser.add_argument("--resume", action="store_true", help="go on where the run in --out stopped")
        case "device":
            parser.add_argument(
                "--device", choices=("cpu", "cuda", "mps"), help="device of the model (default cpu)"
            )
            parser.add_argument(
                "--threads",
                type=positive_int,
                metavar="N",
                help="CPU threads (default 1; wm-doctor measures)",
            )
        case "list":
            parser.add_argument("--list", action="store_true", help="list what exists and stop")
        case _:
            raise AssertionError(f"no shared flag {name!r}")


# --- a command ------------------------------------------------------------------------------------------


@dataclass
class Job:
    """One run of a command: its flags, its composed config and the way to speak to the user."""

    flags: argparse.Namespace
    config: Any
    """The composed and validated config (an OmegaConf `DictConfig`), or None for a command without one."""

    folder: Path | None = None
    """The output folder that a sweep chose for this job; None outside a sweep."""

    overrides: Sequence[str] = ()
    """The user's overrides that `config` was composed with."""

    results: list[dict[str, Any]] = field(default_factory=list)
    objective: float = math.nan
    """What a sweeper minimises; set it in `run` where there is such a number."""

    _stdout: IO[str] = field(default_factory=lambda: sys.stdout)

    @property
    def command_line(self) -> str:
        """What was asked for, as a shell would take it."""
        return str(self.flags.command_line)

    @property
    def config_file(self) -> str:
        """What a run keeps as its `config.yaml`: the config, under the command line it came from."""
        from wm_plan.configuration import as_yaml

        return f"# {self.command_line}\n{as_yaml(self.config)}"

    @property
    def console(self) -> Console:
        """A rich console on stderr for progress bars; silent with `--quiet`."""
        from rich.console import Console

        return Console(stderr=True, quiet=self.flags.quiet, highlight=False)

    def say(self, message: str) -> None:
        """Write a line to stderr, unless `--quiet`."""
        if not self.flags.quiet:
            print(message, file=sys.stderr)  # noqa: T201

    def warn(self, message: str) -> None:
        """Write one warning line to stderr, also with `--quiet`."""
        print(f"warning: {' '.join(message.split())}", file=sys.stderr)  # noqa: T201

    def print_result(self, result: dict[str, Any], text: str = "") -> None:
        """Print on stdout `result` as JSON (with `--json`) or `text`; a sweep keeps it for its own result."""
        self.results.append(result)
        if self.folder is None:
            write_result(self._stdout, result if self.flags.json else None, text)


@dataclass
class Command:
    """A console script; see the module's docstring for how one is written."""

    name: str
    summary: str
    run: Callable[[Job], int]
    add_flags: Callable[[argparse.ArgumentParser], None] = lambda parser: None
    flags: tuple[str, ...] = ()
    """Its shared flags: env, model, seed, out (--overwrite), resume, device (--threads), list."""

    arguments: str = ""
    """What `--help` shows for the arguments without a flag that `add_flags` adds, such as "SRC DST"."""

    exit_codes: str = ""
    """Its exit codes besides the shared ones, such as "1 findings"."""

    config: str | None = None
    select: Callable[[argparse.Namespace], list[str]] = lambda flags: []
    configure: Callable[[Any, argparse.Namespace], None] = lambda config, flags: None
    examples: tuple[str, ...] = ()
    example_override: str = "planner.num_samples=512"

    def main(self, argv: Sequence[str] | None = None) -> int:
        """Run the command and give its exit code; never lets an exception out."""
        try:
            given = list(sys.argv[1:] if argv is None else argv)
            flags, overrides = self.parse(given)
            flags.command_line = shlex.join([self.name, *given])
            with _stdout_reserved() as stdout:
                return self._run(flags, overrides, stdout)
        except SystemExit as stop:  # argparse's --help
            return int(stop.code or 0)
        except KeyboardInterrupt:
            _complain(f"{self.name}: stopped by Ctrl-C")
            return INTERRUPTED
        except BrokenPipeError:  # the reader of our stdout went away, as `| head` does
            return DONE
        except Exception as error:
            if is_users_mistake(error):
                _complain(f"{self.name}: {one_line(error)}")
                return WRONG_INPUT
            traceback.print_exc()
            _complain(f"{self.name}: this is a bug of wm-plan, please report it with the lines above")
            return BUG

    def parse(self, argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
        """Split a command line into flags and overrides; they may stand in any order."""
        parser = self._parser()
        flags, rest = parser.parse_known_args(_join_negative_values(argv, parser))
        rest += _overrides_in_lists(flags, parser)
        known_flags = [flag for action in parser._actions for flag in action.option_strings]
        for argument in rest:
            if argument.startswith("-"):
                raise UserInputError(
                    f"unknown flag {argument!r}.{did_you_mean(argument, known_flags)} See {self.name} --help."
                )
            if self.config is None:
                raise UserInputError(f"unexpected argument {argument!r}. See {self.name} --help.")
            if "=" not in argument:
                raise UserInputError(
                    f"unexpected argument {argument!r}. Flags start with --; overrides are like seed=3."
                )
        return flags, rest

    def _parser(self) -> argparse.ArgumentParser:
        parser = _Parser(
            prog=self.name,
            description=self.summary,
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            usage=" ".join(filter(None, (self.name, self.arguments, "[flags]")))
            + (" [overrides]" if self.config else ""),
            epilog=self._epilog(),
        )
        for name in self.flags:
            _add_shared_flag(parser, name)
        self.add_flags(parser)
        parser.add_argument("--json", action="store_true", help="print exactly one JSON object on stdout")
        parser.add_argument("--quiet", action="store_true", help="no progress bar and no messages")
        if self.config:
            parser.add_argument(
                "--dry-run",
                action="store_true",
                help="check all input, print the config, stop",
            )
            parser.add_argument(
                "-m",
                "--multirun",
                action="store_true",
                help="sweep: overrides may list values, as in seed=0,1,2",
            )
        return parser

    def _epilog(self) -> str:
        lines = []
        if self.examples:
            lines += ["examples:", *(f"  {example}" for example in self.examples), ""]
        if self.config:
            lines += [
                f"overrides: any value that --dry-run prints, such as {self.example_override}",
                "",
            ]
        own = f", {self.exit_codes}" if self.exit_codes else ""
        if self.name == "wm-plan":
            own = ", 3 done but the goal was not reached"
        bug = "" if self.exit_codes.startswith("1 ") else ", 1 a bug of ours"
        lines.append(f"exit codes: 0 done{own}, 2 wrong input{bug}")
        return "\n".join(lines)

    def _run(self, flags: argparse.Namespace, overrides: list[str], stdout: IO[str]) -> int:
        if self.config is None or getattr(flags, "list", False):
            return self.run(Job(flags, None, _stdout=stdout))
        if flags.multirun:
            from .sweep import run_sweep

            return run_sweep(self, flags, overrides, stdout)
        from wm_plan.configuration import compose

        config = compose(self.config, overrides, base=self.select(flags))
        self.configure(config, flags)
        return self.run(Job(flags, config, overrides=overrides, _stdout=stdout))


@dataclass
class CommandGroup:
    """A console script whose first argument names one of several commands, as in `wm-data inspect SRC`.

    Each command's own name says the group's too: "wm-data inspect".
    """

    name: str
    summary: str
    commands: tuple[Command, ...]

    config: None = None
    """None of the commands takes overrides."""

    def parse(self, argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
        """Split a command line as the command does that its first argument names."""
        return self._named()[argv[0]].parse(argv[1:])

    def _named(self) -> dict[str, Command]:
        return {command.name.removeprefix(self.name).strip(): command for command in self.commands}

    def main(self, argv: Sequence[str] | None = None) -> int:
        """Run the command that the first argument names; gives its exit code."""
        first, *rest = list(sys.argv[1:] if argv is None else argv) or ["--help"]
        commands = self._named()
        if first in commands:
            return commands[first].main(rest)
        if first in ("-h", "--help"):
            width = max(map(len, commands))
            lines = (f"  {name:<{width}}  {command.summary}" for name, command in commands.items())
            usage = f"usage: {self.name} {{{','.join(commands)}}} ..."
            see = f"See {self.name} COMMAND --help for the flags of each."
            write_result(sys.stdout, None, "\n".join([usage, "", self.summary, "", *lines, "", see]))
            return DONE
        known = ", ".join(commands)
        hint = did_you_mean(first, commands)
        _complain(f"{self.name}: unknown command {first!r}.{hint} Known commands: {known}.")
        return WRONG_INPUT


# --- errors ---------------------------------------------------------------------------------------------


def is_users_mistake(error: BaseException) -> bool:
    """Tell wrong input (a ValueError or ImportError that our own code raises, a full disk) from a bug."""
    if isinstance(error, UserInputError):
        return True
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    if not isinstance(error, ValueError | ImportError):
        return False
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    if last is None:
        return False
    code = last.tb_frame.f_code
    said_on_purpose = code.co_code[last.tb_lasti] == dis.opmap["RAISE_VARARGS"]  # and not by int("x"), say
    return said_on_purpose and os.path.realpath(code.co_filename).startswith(_OWN_FOLDERS)


def one_line(error: BaseException) -> str:
    """Give an error's message on one line."""
    return " ".join(str(error).split()) or type(error).__name__


def _complain(line: str) -> None:
    with suppress(OSError):
        print(line, file=sys.stderr, flush=True)  # noqa: T201


# --- stdout ---------------------------------------------------------------------------------------------


def write_result(stdout: IO[str], result: dict[str, Any] | None, text: str = "") -> None:
    """Write one JSON object, or else the text, and flush."""
    line = json.dumps(as_json(result), allow_nan=False) if result is not None else text
    if line:
        stdout.write(line + "\n")
        stdout.flush()


def as_json(value: Any) -> Any:  # noqa: ANN401
    """Make a value fit for strict JSON: arrays become lists, paths strings, and a non-finite number null."""
    if isinstance(value, dict):
        return {str(key): as_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set):
        return [as_json(item) for item in value]
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):  # numpy and torch, scalars and arrays
        return as_json(value.tolist())
    raise TypeError(f"{type(value).__name__} does not fit into JSON")


@contextmanager
def _stdout_reserved() -> Iterator[IO[str]]:
    """Keep stdout for the result: until the end, whatever else is printed, also by C code, goes to stderr."""
    original = sys.stdout
    original.flush()
    saved = os.dup(1)
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    try:
        if _file_number(original) == 1:
            with open(saved, "w", encoding="utf-8", closefd=False) as stdout:
                yield stdout
        else:  # captured, as in a notebook or a test
            yield original
    finally:
        sys.stdout = original
        os.dup2(saved, 1)
        os.close(saved)


def _file_number(stream: IO[str]) -> int | None:
    with suppress(OSError, ValueError, AttributeError):
        return stream.fileno()
    return None


def _overrides_in_lists(flags: argparse.Namespace, parser: argparse.ArgumentParser) -> list[str]:
    """Take out of `--data A B seed=3` the overrides, which argparse reads as more values of the flag."""
    found: list[str] = []
    for action in parser._actions:
        if action.nargs != "+" or not getattr(flags, action.dest):
            continue
        values = [str(value) for value in getattr(flags, action.dest)]
        overrides = [value for value in values if _OVERRIDE.match(value) and not os.path.exists(value)]
        setattr(flags, action.dest, [value for value in values if value not in overrides])
        found += overrides
    return found


def _join_negative_values(argv: Sequence[str], parser: argparse.ArgumentParser) -> list[str]:
    """Join `--goal-state -0.3,1.2` into one argument: argparse would read the value as a flag."""
    takes_value = {
        flag for action in parser._actions if action.nargs is None for flag in action.option_strings
    }
    joined: list[str] = []
    for argument in argv:
        negative = len(argument) > 1 and argument[0] == "-" and (argument[1].isdigit() or argument[1] == ".")
        if negative and joined and joined[-1] in takes_value:
            joined[-1] = f"{joined[-1]}={argument}"
        else:
            joined.append(argument)
    return joined
