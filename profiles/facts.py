"""Statistics of train histories: what templates state and what prompts give the model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from profiles.history import UserHistory
from profiles.items import Catalogue
from recbole_kd.strict import digest

LIKED = 4.0


@dataclass(frozen=True)
class Facts:
    """Statistics of one history; counts are of that user's train items only.

    Attributes
    ----------
    n : int
    shares : tuple of (category, percent)
        Most frequent first. An item with m categories counts 1/m for each.
    favourites : tuple of str
        Categories whose share exceeds the mean share of all users most, greatest excess first.
    makers : tuple of (maker, count)
        Makers met at least twice, most frequent first.
    periods : tuple of (decade, percent)
    liked : tuple of str
        Titles: best rated first, then latest; without ratings the latest.
    mean_rating : float or None
    """

    n: int
    shares: tuple[tuple[str, int], ...]
    favourites: tuple[str, ...]
    makers: tuple[tuple[str, int], ...]
    periods: tuple[tuple[str, int], ...]
    liked: tuple[str, ...]
    mean_rating: float | None


class Statistician:
    """Facts about users, relative to the mean of all users.

    Parameters
    ----------
    catalogue : Catalogue
    histories : iterable of UserHistory
        The train histories that the mean is taken over.
    """

    def __init__(self, catalogue: Catalogue, histories: Iterable[UserHistory]) -> None:
        self.catalogue = catalogue
        total: Counter[str] = Counter()
        users = 0
        for history in histories:
            weights = self.category_weights(history.items)
            mass = sum(weights.values())
            users += bool(mass)
            # Whole millionths: the sum must not depend on the order of users.
            for name, weight in weights.items():
                total[name] += round(1e6 * weight / mass)
        self.mean_share = {name: value / (1e6 * max(users, 1)) for name, value in total.items()}

    @property
    def digest(self) -> str:
        """Content address of the mean shares (rounded as the facts use them)."""
        return digest({name: round(share, 6) for name, share in self.mean_share.items()})

    def category_weights(self, items: Sequence[str]) -> dict[str, float]:
        """Weight of every category in a history; each item gives 1 in all."""
        weights: dict[str, float] = {}
        for token in items:
            categories = self.catalogue[token].categories
            for name in categories:
                weights[name] = weights.get(name, 0.0) + 1 / len(categories)
        return weights

    def facts(self, history: UserHistory) -> Facts:
        """Compute the facts of one history."""
        weights = self.category_weights(history.items)
        mass = sum(weights.values()) or 1.0
        share = {name: weight / mass for name, weight in weights.items()}
        by_share = sorted(share, key=lambda name: (-round(share[name], 9), name))
        excess = {name: round(share[name] - self.mean_share.get(name, 0.0), 6) for name in share}
        items = [self.catalogue[token] for token in history.items]
        makers = Counter(item.maker for item in items if item.maker)
        years = [item.year for item in items if item.year]
        decades = Counter(f"{year // 10 * 10}s" for year in years)
        return Facts(
            n=history.last,
            shares=tuple((name, round(100 * share[name])) for name in by_share),
            favourites=tuple(sorted((n for n in excess if excess[n] > 0), key=lambda n: (-excess[n], n))),
            makers=tuple((name, count) for name, count in _ranked(makers) if count > 1),
            periods=tuple((name, round(100 * count / len(years))) for name, count in _ranked(decades)),
            liked=self._liked(history),
            mean_rating=None if history.ratings is None else round(sum(history.ratings) / history.last, 1),
        )

    def _liked(self, history: UserHistory) -> tuple[str, ...]:
        latest = list(range(history.last))[::-1]
        if history.ratings is not None:
            ratings = history.ratings
            latest = sorted((i for i in latest if ratings[i] >= LIKED), key=lambda i: -ratings[i])
        return tuple(dict.fromkeys(self.catalogue[history.items[i]].title for i in latest))


def _ranked(counts: Counter[str]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
