"""Groups of commands that answer what is likely to be written in the place of a command."""

from typing import Any, ClassVar

import typer


class Commands(typer.core.TyperGroup):
    """The commands of a group. "help" in the place of a command is answered by what to write, and so is what `meant` knows."""

    path: ClassVar[str] = "sfumato"
    """How the group is called."""

    def meant(self, word: str) -> str:  # noqa: ARG002  # each group knows others
        """A sentence that says what to write instead of a word that is no command; empty if that is not known."""
        return ""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command that the first argument names."""
        word, *others = args
        if self.get_command(ctx, word) is None:
            remedy = self.meant(word)
            if not remedy and word.casefold() == "help":
                remedy = f"Write: {' '.join([self.path, *others[:1]])} --help"
            if remedy:
                ctx.fail(f"{word!r} is no command. {remedy}")
        return super().resolve_command(ctx, args)
