"""The command `fieldmark`: serve, or classify, explain, inspect and measure without a server."""

import argparse
import gc
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel, ValidationError

from model import terminal
from service.settings import BUNDLED_MODEL, Settings

_USUAL = ("model", "host", "port", "device", "precision")
_OPTION = "option_"
"""Begins the names of a request's options: a request has a `model`, too."""
_DEFAULTS = Settings.model_fields


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code: 0 done, 1 failed, 2 wrong usage."""
    # Imports make half a million objects that stay, which the collector would walk again and again.
    gc.set_threshold(10_000)
    given = sys.argv[1:] if arguments is None else list(arguments)
    return terminal.run(lambda: _main(given), lambda message: _fail(message, 1))


def _main(given: list[str]) -> int:
    options = _parser(with_bench=given[:1] == ["bench"]).parse_args(given)
    # Imported late: `--help` need not wait for the runtime.
    from service.errors import FieldmarkError
    from service.inference.sessions import ModelRejected

    try:
        return int(options.run(options))
    except ValidationError as error:
        return _fail(_first_problem(error), 2)
    except FieldmarkError as error:
        nearest = error.extensions.get("nearest")
        return _fail(error.detail + (f" Similar: {', '.join(nearest)}." if nearest else ""), 1)
    except ModelRejected as error:
        return _fail(str(error), 1)


def _fail(message: str, code: int) -> int:
    print(f"fieldmark: {terminal.one_line(message)}", file=sys.stderr)  # noqa: T201 - the command's answer
    return code


def _first_problem(error: ValidationError) -> str:
    """Return a settings or options error in one line, naming the flag."""
    first = error.errors(include_url=False)[0]
    flag = "--" + ".".join(str(part) for part in first["loc"]).replace("_", "-")
    message = first["msg"].removeprefix("Value error, ")
    return f"{flag}: {message[:1].lower()}{message[1:]}, not {first['input']!r}"


class _Version(argparse.Action):
    """Prints the versions; they are looked up only then, because the runtime takes its time."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from service.commands.doctor import versions

        print(versions())  # noqa: T201 - the command's answer
        parser.exit()


def _parser(*, with_bench: bool) -> argparse.ArgumentParser:
    parser = terminal.Parser(prog="fieldmark", description=__doc__)
    parser.add_argument("--version", action=_Version, nargs=0, help="print the versions of fieldmark and its runtime")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_serve(commands.add_parser("serve", help="answer over HTTP"))
    _add_classify(commands.add_parser("classify", help="print the classes of photos"))
    _add_explain(commands.add_parser("explain", help="draw why a photo is of its class"))
    _add_demo(commands.add_parser("demo", help="show what it does, with drawn birds or your photos"))
    inspect = commands.add_parser("inspect", help="print what a model file contains")
    inspect.add_argument("file", type=Path, metavar="FILE", help="an .onnx file")
    inspect.add_argument("--json", action="store_true", help="print JSON")
    inspect.set_defaults(run=_inspect)
    doctor = commands.add_parser("doctor", help="check what is installed, and whether it works")
    doctor.description = "Check the installation: one line each; exits with 1 where a check failed."
    _add_model(doctor)
    _add_settings(doctor, ("host", "port"))
    doctor.set_defaults(run=_doctor)
    completion = commands.add_parser("completion", help="print a script that completes this command in bash and zsh")
    completion.description = 'Print a script for bash and zsh: eval "$(fieldmark completion)"'
    completion.set_defaults(run=_completion)
    bench = commands.add_parser("bench", help="measure a server")
    if with_bench:  # the modules that measure are imported by this command alone
        _add_bench(bench)
    return parser


# ── serve ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _add_serve(parser: argparse.ArgumentParser) -> None:
    """Offer every setting as a flag; the others come from `FIELDMARK_*` or their defaults."""
    parser.description = "Answer over HTTP. Every option is also a variable, e.g. FIELDMARK_PORT."
    _add_settings(parser, _USUAL)
    _add_settings(parser.add_argument_group("limits and details"), [name for name in _DEFAULTS if name not in _USUAL])
    parser.set_defaults(run=_serve)


def _add_settings(parser: Any, names: Sequence[str]) -> None:
    _add_fields(parser, Settings, names, prefix="")


def _add_fields(parser: Any, kind: type[BaseModel], names: Sequence[str], prefix: str) -> None:
    """Offer fields as flags, stored under prefix and name where they are given; pydantic checks the values."""
    for name in names:
        field = kind.model_fields[name]
        default = "the bundled model" if field.default == BUNDLED_MODEL else field.default
        shown = "" if default in (None, "") else f" [{default}]"
        values = get_args(field.annotation) if get_origin(field.annotation) is Literal else ()
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            dest=prefix + name,
            metavar="|".join(values) or name.rsplit("_", 1)[-1].upper(),
            default=argparse.SUPPRESS,
            help=f"{field.description}{shown}".replace("%", "%%"),
        )


def _add_belief(parser: argparse.ArgumentParser) -> None:
    """Offer what may be there; the names of priors and classes are checked with the model."""
    parser.add_argument(
        "--among", dest=f"{_OPTION}among", action="append", default=argparse.SUPPRESS, metavar="LABEL",
        help="only these classes may be there: a label or `class:INDEX`; repeat it for each",
    )  # fmt: skip
    parser.add_argument(
        "--prior", dest=f"{_OPTION}prior", default=argparse.SUPPRESS, metavar="NAME",
        help="how common the classes are: a column of priors.csv beside the model file",
    )  # fmt: skip


def _settings(options: argparse.Namespace) -> Settings:
    return Settings(**{name: value for name, value in vars(options).items() if name in _DEFAULTS})


def _serve(options: argparse.Namespace) -> int:
    from service.http.auth import NoKey
    from service.http.server import serve

    try:
        return serve(_settings(options))
    except NoKey as error:
        return _fail(str(error), 1)


# ── without a server ─────────────────────────────────────────────────────────────────────────────────────────────────


def _add_model(parser: argparse.ArgumentParser) -> None:
    _add_settings(parser, ("model", "device", "precision"))
    parser.add_argument("--json", action="store_true", help="print JSON, as the service answers")


def _chosen(options: argparse.Namespace) -> dict[str, Any]:
    """Return the options of a request that are given."""
    given = vars(options).items()
    return {name.removeprefix(_OPTION): value for name, value in given if name.startswith(_OPTION)}


def _add_photos(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "photos", nargs="*", metavar="PATH",
        help="an image file, a folder with all that is in it, a glob or an address; `-` reads a photo from the "
        "standard input",
    )  # fmt: skip
    parser.set_defaults(usage=parser)
    parser.add_argument(
        "--files-from", metavar="FILE", help="read further names from a file, one a line; `-` reads the standard input"
    )


def _given(options: argparse.Namespace) -> Any:
    from service.commands.folder.given import Given

    if not options.photos and options.files_from is None:
        options.usage.error("give a PATH, or names in `--files-from`")
    names = ("files_from", "out", "format", "deployment", "timezone", "location")
    return Given(options.photos, **{name: getattr(options, name, None) for name in names}, as_json=options.json)


def _add_classify(parser: argparse.ArgumentParser) -> None:
    from service.http.api.schemas import PhotosOptions

    parser.description = "Print the classes of photos, the likeliest first, or write them to a table."
    _add_photos(parser)
    parser.add_argument(
        "-o", "--out", metavar="FILE",
        help="write a table, .csv, .jsonl or .parquet, a row a photo; the same command goes on where it stopped",
    )  # fmt: skip
    parser.add_argument(
        "--format", choices=("csv", "jsonl", "parquet", "camtrap-dp"),
        help="of the table, where its name does not say; camtrap-dp writes a data package into a folder",
    )  # fmt: skip
    package = parser.add_argument_group("Camtrap DP")
    package.add_argument("--deployment", metavar="ID", help="that the photos are of")
    package.add_argument("--timezone", metavar="ZONE", help="of the camera's clock: Europe/Berlin, +02:00")
    package.add_argument("--location", metavar="LAT,LON", help="of the camera, degrees")
    cluster = parser.add_argument_group("Ray")
    cluster.add_argument(
        "--ray", metavar="ADDRESS",
        help="classify on a Ray cluster, HOST:PORT, `auto` or `local`, into a folder of Parquet files, `--out DIR`",
    )  # fmt: skip
    cluster.add_argument(
        "--ray-gpus", type=_share, default=0.0, metavar="NUMBER",
        help="GPUs of each worker, such as 1 or 0.5 [0: a core each]",
    )  # fmt: skip
    _add_model(parser)
    _add_fields(parser, PhotosOptions, ("top_k", "threshold", "coverage", "marks"), prefix=_OPTION)
    _add_belief(parser)
    parser.add_argument(
        "--individual", dest=f"{_OPTION}individual", action="store_true", help="all photos are of one individual",
    )  # fmt: skip
    parser.set_defaults(run=_classify)


def _classify(options: argparse.Namespace) -> int:
    from service.http.api.schemas import PhotosOptions

    given, wanted, settings = _given(options), PhotosOptions(**_chosen(options)), _settings(options)
    if options.ray is not None:
        from service.commands.ray_data.command import classify

        return classify(given, wanted, settings, options.ray, options.ray_gpus)
    if given.has_many or given.out is not None:
        from service.commands.folder import command as folder

        return folder.classify(given, wanted, settings)
    from service.commands import photos

    return photos.classify(options.photos, wanted, settings, as_json=options.json)


def _share(text: str) -> float:
    """Return a number of GPUs."""
    value = float(text)
    if not 0 < value <= 64 or (value > 1 and value % 1):
        raise argparse.ArgumentTypeError(f"{text} is neither a share of a GPU nor a whole number of them")
    return value


def _number(text: str) -> str:
    """Return the N of `--marks N` unchanged; a path that follows `--marks` would be taken for it."""
    if not re.fullmatch(r"-?[0-9]+", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number; write PATH before `--marks`")
    return text


def _add_explain(parser: argparse.ArgumentParser) -> None:
    from service.http.api.schemas import ExplainOptions

    parser.description = "Draw why a photo is of its class, or of another, or of one and not another."
    _add_photos(parser)
    parser.add_argument(
        "-o", "--out", required=True, metavar="OUT",
        help="PNG, WebP or JPEG to write; of several photos a folder, which mirrors theirs and goes on where it "
        "stopped",
    )  # fmt: skip
    _add_model(parser)
    names = ("target", "versus", "mark", "view", "layer", "colormap", "opacity", "size", "coverage")
    _add_fields(parser, ExplainOptions, names, prefix=_OPTION)
    _add_belief(parser)
    parser.add_argument(
        "--marks", dest=f"{_OPTION}marks", nargs="?", const="3", default=argparse.SUPPRESS, metavar="N", type=_number,
        help="also print the field marks of the class that are seen, at most N of 8 [3 where N is left out]",
    )  # fmt: skip
    parser.set_defaults(run=_explain)


def _explain(options: argparse.Namespace) -> int:
    from service.http.api.schemas import ExplainOptions

    given, wanted, settings = _given(options), ExplainOptions(**_chosen(options)), _settings(options)
    if given.is_one_picture:
        from service.commands import picture

        return picture.explain(options.photos[0], Path(options.out), wanted, settings, as_json=options.json)
    from service.commands.folder import command as folder

    return folder.explain(given, wanted, settings)


def _add_demo(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Write what the model sees in drawn birds, or in your photos, as pictures, and say it in words."
    )
    parser.add_argument("folder", nargs="?", type=Path, default=Path("fieldmark-demo"), metavar="DIR",
                        help="folder to write [fieldmark-demo]; its own output is written anew")  # fmt: skip
    parser.add_argument("photos", nargs="*", metavar="PHOTO", help="your photos, in place of the drawn birds")
    _add_model(parser)
    parser.set_defaults(run=_demo)


def _demo(options: argparse.Namespace) -> int:
    from service.commands.demo.command import demo

    return demo(options.folder, options.photos, _settings(options), as_json=options.json)


def _inspect(options: argparse.Namespace) -> int:
    from service.commands.inspect import inspect

    return inspect(options.file, as_json=options.json)


def _doctor(options: argparse.Namespace) -> int:
    from service.commands.doctor import doctor

    return doctor(_settings(options), as_json=options.json)


def _completion(options: argparse.Namespace) -> int:
    from model.completion import completion

    print(completion(_parser(with_bench=True)), end="")  # noqa: T201 - the command's result
    return 0


def _add_bench(parser: argparse.ArgumentParser) -> None:
    from service.commands.bench import command as bench

    parser.description = bench.__doc__
    bench.add_arguments(parser)
    parser.set_defaults(run=bench.run)


if __name__ == "__main__":
    sys.exit(main())
