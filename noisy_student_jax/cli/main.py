"""The command line: ``noisy-student COMMAND``."""

import argparse
import contextlib
import io
import os
import pathlib
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from noisy_student_jax import __version__
from noisy_student_jax.core import console
from noisy_student_jax.core.errors import (
    Interrupted,
    TrainingDivergedError,
    UserError,
    nearest,
)
from noisy_student_jax.core.preemption import (
    AT_ONCE,
    EXIT_STATUS,
    SAVED,
    Interruption,
)

COMMANDS = {
    "run": "the whole loop: every generation, evaluation, report",
    "prepare": "read and check the images, split them into parts, show some",
    "train": "train one generation (--generation=K, or control)",
    "label": "label the pool with one generation",
    "select": "select among pseudo-labels, of a run or of any directory of them",
    "evaluate": "evaluate one generation, or any bundle on labeled images or a suite",
    "study": "one question, asked of many runs: one table, with the paper's beside",
    "report": "judge a finished run and write its report",
    "status": "what is done, running, left",
    "predict": "classes or boxes of images and folders, from any bundle",
    "import": "weights of other libraries into a bundle",
    "export": "a bundle for other programs: timm, onnx, savedmodel, hub",
    "transfer": "what models are worth on other images: probes, fine-tuning",
    "plan": "before spending anything: parameters, FLOPs, memory, steps, disk",
}


STEPPING = ("run", "study", "train", "label", "evaluate", "transfer", "plan")
"""Commands that execute a compiled program many times."""


def main(
    arguments: Sequence[str] | None = None, *, interruption: Interruption | None = None
) -> int:
    """Runs one command.

    Args:
      arguments: command-line arguments; None for those of the process.
      interruption: hears signals already; None for one of this command's own.

    Returns:
      The exit status: 0 for success; 1 if the command failed or found an error, as on a
      full disk; 2 for a usage error; 75 if it was stopped with everything saved, so
      that the same command resumes.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        with contextlib.ExitStack() as stack:
            heard = interruption or stack.enter_context(Interruption())
            return _dispatch(list(map(_at_home, arguments)), heard)
    except UserError as error:
        _say_error(error)
        return error.status
    except TrainingDivergedError as error:
        _say_error(error)
        return 1
    except Interrupted as error:
        console.say(f"{error}; {SAVED}")
        return EXIT_STATUS
    except KeyboardInterrupt:
        console.say(AT_ONCE)
        return EXIT_STATUS
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        _say_error(error)
        return 1


def _at_home(argument: str) -> str:
    """Expands a path's ``~``, which shells leave alone after ``--flag=``.

    Raises:
      UserError: there is no such user.
    """
    flag, equals, value = argument.partition("=")
    if not (flag.startswith("--") and equals):
        flag, equals, value = "", "", argument
    if not value.startswith("~"):
        return argument
    try:
        return f"{flag}{equals}{pathlib.Path(value).expanduser()}"
    except RuntimeError:
        raise UserError(
            f"'{value}' begins with the home folder of a user that is not known here:"
            " write the path in full"
        ) from None


def _say_error(error: Exception) -> None:
    """Prints an error on one line, with control characters escaped."""
    console.say(f"error: {console.printable(str(error))}", error=True)


def _dispatch(arguments: list[str], interruption: Interruption) -> int:
    parser = _parser()
    if not arguments:
        raise UserError(
            f"no command is given: it is one of {', '.join(COMMANDS)} (see"
            " `noisy-student --help`)"
        )
    options, rest = parser.parse_known_args(arguments)
    overrides = [one for one in rest if one.startswith("--config.")]
    unknown = [one for one in rest if not one.startswith("--config.")]
    if not hasattr(options, "config"):
        unknown = rest
    elif bare := [one for one in overrides if "=" not in one]:
        raise UserError(f"'{bare[0]}' has no value: write {bare[0]}=VALUE")
    if unknown:
        flags = [f for action in _flags(parser, options.command) for f in action]
        raise UserError(
            f"`noisy-student {options.command}` does not know"
            f" '{unknown[0]}'{nearest(unknown[0].split('=')[0], flags)} (see"
            f" `noisy-student {options.command} --help`)"
        )
    options.overrides = overrides
    _check_apart(options)
    console.leave_stdout_to_machines(getattr(options, "json", False))
    # JAX is slow to import, which --help and mistyped commands need not wait for.
    from noisy_student_jax.core import environment

    environment.pin()
    from noisy_student_jax.cli import commands, study
    from noisy_student_jax.cli.export import export
    from noisy_student_jax.cli.predict import predict
    from noisy_student_jax.cli.transfer import transfer
    from noisy_student_jax.core import devices
    from noisy_student_jax.interop import importing
    from noisy_student_jax.planning.topology import slices

    if getattr(options, "topology", None):
        slices.only_compile()
    elsewhere = {
        "import": importing.import_weights,
        "export": export,
        "predict": predict,
        "study": study.perform,
        "transfer": transfer,
    }
    if options.command in STEPPING:
        # JAX reads its dispatch settings when it starts.
        devices.keep_freed_memory()
    devices.announce()
    devices.keep_compiled_programs()
    interruption.begin(output=console.output())
    command = elsewhere.get(options.command) or getattr(commands, options.command)
    return command(options, interruption)


def _check_apart(options: argparse.Namespace) -> None:
    """Checks that a command writes into no folder that it reads as a whole.

    The places of a run are compared when its config is known: `check_places`.
    """
    if not (output := getattr(options, "output", None)):
        return
    output = pathlib.Path(output).resolve()
    for name in ("labels", "model", "bundle"):
        if not (place := getattr(options, name, None)):
            continue
        if (folder := pathlib.Path(place).resolve()) in (output, *output.parents):
            raise UserError(
                f"the output '{output}' lies in '{folder}', which is read and would be"
                " another then: choose another place for it"
            )


class _Parser(argparse.ArgumentParser):
    """A parser that reports errors in one sentence, without the usage."""

    def error(self, message: str) -> NoReturn:
        text = message
        if "invalid choice" in message and "argument COMMAND" in message:
            wrong = message.split("'")[1]
            text = f"there is no command '{wrong}'{nearest(wrong, list(COMMANDS))}"
        raise UserError(f"{text} (see `{self.prog} --help`)")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="noisy-student",
        description="Noisy Student Training in JAX.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, help_text in COMMANDS.items():
        one = commands.add_parser(
            name, help=help_text, description=help_text, allow_abbrev=False
        )
        _FLAGS[name](one)
    return parser


def _flags(parser: argparse.ArgumentParser, command: str) -> list[list[str]]:
    choices: dict[str, Any] = {}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            choices = action.choices
    return [action.option_strings for action in choices[command]._actions]


def _run_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", metavar="FILE", help="a config file")
    parser.add_argument("--workdir", metavar="DIR", help="the run directory")
    parser.add_argument(
        "--again",
        action="store_true",
        help="repeat stages done with other settings (nothing is deleted)",
    )


def _study_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", metavar="FILE", help="a file of configs/studies")
    parser.add_argument("--workdir", metavar="DIR", help="the study's directory")
    parser.add_argument("--base", metavar="FILE", help="a config instead of its own")
    parser.add_argument("--seeds", type=int, default=5, help="how many (5)")
    parser.add_argument(
        "--jobs", metavar="I/N", help="perform the seeds of one of several jobs"
    )
    parser.add_argument(
        "--results", metavar="DIR", help="keep the seeds' results there; read others'"
    )


def _report_flags(parser: argparse.ArgumentParser) -> None:
    _run_flags(parser)
    parser.add_argument(
        "--show", action="store_true", help="print what was found; write nothing"
    )


def _stage_flags(parser: argparse.ArgumentParser) -> None:
    _run_flags(parser)
    parser.add_argument("--generation", metavar="K", help="which generation")


def _select_flags(parser: argparse.ArgumentParser) -> None:
    _stage_flags(parser)
    parser.add_argument("--labels", metavar="DIR", help="a directory of sidecars")
    parser.add_argument("--output", metavar="DIR", help="where the selection goes")


def _evaluate_flags(parser: argparse.ArgumentParser) -> None:
    _stage_flags(parser)
    parser.add_argument(
        "--suite",
        metavar="SUITE",
        help="imagenet_a, imagenet_c, imagenet_p, imagenet_r, fgsm or corruptions",
    )
    parser.add_argument("--model", metavar="BUNDLE", help="a bundle instead of a run")
    parser.add_argument("--images", metavar="DIR", help="images to evaluate on")
    parser.add_argument("--output", metavar="FILE", help="keep the result as JSON")
    parser.add_argument("--json", action="store_true", help="print it as JSON")
    parser.add_argument("--batch", type=int, help="images at once (64)")
    parser.add_argument(
        "--epsilon", metavar="LIST", help="for fgsm: step sizes on 0–255 (2,4,8,16)"
    )
    parser.add_argument(
        "--alexnet-flips",
        metavar="FILE",
        help="for imagenet_p: AlexNet's flip probabilities, for mFR",
    )
    parser.add_argument(
        "--trust", action="store_true", help="use code that the bundle names"
    )


def _status_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--workdir", metavar="DIR", help="the run directory")
    parser.add_argument("--json", action="store_true", help="for machines")


_VIEWS = "of an image, to average instead of as many as the bundle does (1 is fastest)"


def _predict_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", metavar="BUNDLE", help="a bundle's directory")
    parser.add_argument("--json", action="store_true", help="one object a line")
    parser.add_argument("--logits", action="store_true", help="add the logits")
    parser.add_argument(
        "--trust", action="store_true", help="use code that the bundle names"
    )
    parser.add_argument("--batch", type=int, default=32, help="images at once")
    parser.add_argument("--views", type=int, help=_VIEWS)
    parser.add_argument(
        "--output", metavar="FILE", help="a new .csv, .parquet or .json file instead"
    )
    parser.add_argument(
        "--draw", metavar="DIR", help="draw the boxes on copies of the images there"
    )
    parser.add_argument(
        "--format",
        metavar="FORMAT",
        help="write boxes as coco, yolo, voc or csv into --output=DIR",
    )
    parser.add_argument(
        "--min-score", type=float, help="of boxes, from which on they count (0.3)"
    )
    parser.add_argument(
        "images", metavar="IMAGE", nargs="*", help="files, folders or 'patterns*'"
    )


def _import_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--format", metavar="FORMAT", help="timm, tf or lite")
    parser.add_argument("--model", metavar="NAME", help="the model of the weights")
    parser.add_argument("--output", metavar="BUNDLE", help="a new directory")
    parser.add_argument("--classes", metavar="FILE", help="class names, one a line")
    parser.add_argument("--resolution", type=int, help="instead of the model's own")
    parser.add_argument("--interpolation", help="instead of the model's own")
    parser.add_argument("--mean", help="instead of the model's own, on the 0-1 scale")
    parser.add_argument("--std", help="instead of the model's own, on the 0-1 scale")
    parser.add_argument("source", metavar="SOURCE", nargs="?", help="a file")


def _export_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--format", metavar="FORMAT", help="timm, onnx, savedmodel or hub"
    )
    parser.add_argument(
        "--without-preprocessing",
        action="store_true",
        help="for onnx: the network alone, which takes normalized images",
    )
    parser.add_argument(
        "--trust", action="store_true", help="use code that the bundle names"
    )
    parser.add_argument("--views", type=int, help=_VIEWS)
    parser.add_argument("bundle", metavar="BUNDLE", nargs="?", help="its directory")
    parser.add_argument(
        "output", metavar="OUTPUT", nargs="?", help="a new file or directory"
    )


def _transfer_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--models",
        metavar="LIST",
        help="bundles (or NAME=BUNDLE), run directories, random, pretrained:MODEL",
    )
    parser.add_argument(
        "--target", metavar="DIR", help="a folder of class folders, or digits"
    )
    parser.add_argument(
        "--shots", metavar="LIST", default="1,5,10,25", help="images of each class"
    )
    parser.add_argument(
        "--fine-tune", action="store_true", help="fine-tune each model as well"
    )
    parser.add_argument(
        "--workdir",
        metavar="DIR",
        default="runs/transfer",
        help="keeps images, features and fine-tunings (runs/transfer)",
    )
    parser.add_argument("--output", metavar="FILE", help="keep the result as JSON")
    parser.add_argument("--json", action="store_true", help="print it as JSON")
    parser.add_argument(
        "--trust", action="store_true", help="use code that a bundle names"
    )


def _plan_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", metavar="FILE", help="a config file")
    parser.add_argument("--workdir", metavar="DIR", help="the run directory, if any")
    parser.add_argument("--model", metavar="NAME", help="one model instead")
    parser.add_argument("--resolution", type=int, default=0, help="of that model")
    parser.add_argument("--json", action="store_true", help="for machines")
    parser.add_argument(
        "--recipe", action="store_true", help="what the config resolves to"
    )
    parser.add_argument(
        "--measure", action="store_true", help="add the hours on this machine"
    )
    parser.add_argument(
        "--topology",
        metavar="SLICE",
        help="compile for a TPU slice such as v5e:16x16, and report whether it fits",
    )
    parser.add_argument("--generation", metavar="K", help="for --topology: one alone")


_FLAGS = {
    "run": _run_flags,
    "prepare": _run_flags,
    "train": _stage_flags,
    "label": _stage_flags,
    "select": _select_flags,
    "evaluate": _evaluate_flags,
    "study": _study_flags,
    "report": _report_flags,
    "status": _status_flags,
    "predict": _predict_flags,
    "import": _import_flags,
    "export": _export_flags,
    "transfer": _transfer_flags,
    "plan": _plan_flags,
}
