"""Shell completion of both commands, written as one script: a tab costs no start of Python.

zsh reads the same script through its `bashcompinit`.
"""

import argparse
import re
import shlex
from collections.abc import Iterator

_SCRIPT = """\
# Completion of {prog}, for bash and zsh.
if [ -n "$ZSH_VERSION" ]; then autoload -U +X bashcompinit && bashcompinit; fi
{function}() {{
  local word=${{COMP_WORDS[COMP_CWORD]}} words=
  case "${{COMP_WORDS[1]}} ${{COMP_WORDS[COMP_CWORD-1]}}" in
{values}
    *) case "$COMP_CWORD ${{COMP_WORDS[1]}} $word" in
      1\\ *) words={commands} ;;
{options}
    esac ;;
  esac
  COMPREPLY=($(compgen -W "$words" -- "$word"))
}}
complete -o default -F {function} {prog}
"""


def completion(parser: argparse.ArgumentParser) -> str:
    """Return the script: commands, their options, and the values of those that have a list; files everywhere else.

    Args:
        parser: of a command whose subcommands have no subcommands.
    """
    commands = next(
        dict(action.choices)
        for action in parser._actions
        if isinstance(action, argparse._SubParsersAction)  # argparse has no other way to them
    )
    values, options = [], []
    for name, command in commands.items():
        for action in command._actions:
            if given := list(_values(action)):
                pattern = "|".join(shlex.quote(f"{name} {option}") for option in action.option_strings)
                values.append(f"    {pattern}) words={shlex.quote(' '.join(given))} ;;")
        flags = [flag for action in command._actions for flag in action.option_strings if flag.startswith("--")]
        options.append(f"      *\\ {name}\\ -*) words={shlex.quote(' '.join(flags))} ;;")
    return _SCRIPT.format(
        prog=parser.prog,
        function=f"_{re.sub('[^a-z]', '_', parser.prog)}",
        commands=shlex.quote(" ".join(commands)),
        values="\n".join(values),
        options="\n".join(options),
    )


def _values(action: argparse.Action) -> Iterator[str]:
    """Yield the values that an option takes, where it lists them: as choices, or as `A|B` in its help."""
    if action.option_strings and action.nargs != 0:
        if action.choices is not None:
            yield from map(str, action.choices)
        elif isinstance(action.metavar, str) and re.fullmatch(r"[a-z0-9]+(\|[a-z0-9]+)+", action.metavar):
            yield from action.metavar.split("|")
