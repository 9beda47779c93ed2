"""What is asked of a mask: to keep the score, to destroy it, or both."""

from dataclasses import dataclass

from sfumato.settings import Settings


@dataclass(frozen=True)
class Game(Settings):
    r"""Maximise $\mathrm{keep}\cdot\Phi(m \otimes x) - \mathrm{drop}\cdot\Phi((1-m) \otimes x)$ over masks $m$.

    Fong et al. 2019, section 3: the mask shows what suffices (`keep`), or covers what is needed (`drop`). At least one
    of the two weights is positive and none is negative.
    """

    keep: float = 1.0
    drop: float = 0.0

    def __post_init__(self) -> None:
        if not (self.keep >= 0 and self.drop >= 0 and self.keep + self.drop > 0):
            raise ValueError(
                f"a game's weights must be at least 0 and not both 0; got keep={self.keep}, drop={self.drop}"
            )

    @classmethod
    def named(cls, game: "Game | str") -> "Game":
        """The game itself, or the one called "preserve", "delete" or "dual"."""
        if isinstance(game, Game):
            return game
        if game not in GAMES:
            raise ValueError(f"game must be one of {', '.join(GAMES)} or a Game(keep, drop); got {game!r}")
        return GAMES[game]


PRESERVE = Game(keep=1, drop=0)
DELETE = Game(keep=0, drop=1)
DUAL = Game(keep=1, drop=1)
GAMES = {"preserve": PRESERVE, "delete": DELETE, "dual": DUAL}
