"""Match the features of X with the inputs of the network, by name if both have names."""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from colonnade.errors import listed, sanitize

__all__ = ["MatchError", "Pairing", "carry_nothing", "difference", "match_key", "pair"]

# Default names that libraries give to columns: 0, 1, …; x0, …; feature_0, …; V1, …
_NUMBERED = re.compile(
    r"(?P<stem>|x|v|f|col|column|feature|field|input|var)(?P<gap>[_ ]?)(?P<number>0|[1-9][0-9]*)",
    re.IGNORECASE,
)
_OF_ARRAY = re.compile(r"(?P<array>.*)\[(?P<label>[^\[\]]+)\]", re.DOTALL)
# Limits of a message: names that it lists, names that it compares, and near misses that it shows
_LISTED = 12
_COMPARED = 200
_FEW = 3


class MatchError(ValueError):
    """The names of X's features and of the network's inputs differ."""


@dataclass(frozen=True)
class Pairing:
    """The feature of X for each input of the network.

    Attributes
    ----------
    inputs
        The network's names, (n,), in its order; None if it has none.
    features
        X's names, (n,), in the network's order; None if they carry no information.
    order
        Number of the feature, in X as opened, for each input; None if these are 0, 1, … already.
    """

    inputs: tuple[str, ...] | None = None
    features: tuple[str, ...] | None = None
    order: tuple[int, ...] | None = None

    @property
    def moved(self) -> int:
        """Number of features whose place in X differs from that in the network."""
        return sum(place != at for at, place in enumerate(self.order or ()))

    @property
    def names(self) -> tuple[str, ...] | None:
        """Names of the inputs: X's names if it has any, else the network's."""
        return self.inputs if self.features is None else self.features


def pair(
    inputs: tuple[str, ...] | None, features: tuple[str, ...] | None, *, numbered: bool = False
) -> Pairing:
    """Match a network's inputs with X's features, by name if both have names.

    Parameters
    ----------
    inputs
        The network's names.
    features
        X's names.
    numbered
        Whether the names in X's file are default names: `carry_nothing` of all of them.

    Raises
    ------
    MatchError
        The names differ, or one side has a name twice.
    """
    if inputs is None or features is None or inputs == features:
        return Pairing(inputs, features)
    order = _order(inputs, features)
    if order is not None:
        matched = tuple(features[at] for at in order)
        same = all(place == at for at, place in enumerate(order))
        return Pairing(inputs, matched, None if same else order)
    # Default names say nothing about the order, so they cannot contradict other names. But if both
    # sides share a name, they use one naming scheme, and a difference is real
    reduce = _reducer(inputs, features)
    if {reduce(name) for name in inputs}.isdisjoint(map(reduce, features)):
        if carry_nothing(inputs):
            return Pairing(None, features)
        if numbered or carry_nothing(features):
            return Pairing(inputs, None)
    raise MatchError(difference(inputs, features))


def carry_nothing(names: Sequence[str]) -> bool:
    """Return whether names are default ones: from 0 or 1 on, in order, with one usual prefix."""
    found = [_NUMBERED.fullmatch(name) for name in names]
    if not names or found[0] is None:
        return False
    first, begin = found[0], found[0]["number"]
    return begin in ("0", "1") and all(
        each is not None
        and (each["stem"], each["gap"]) == (first["stem"], first["gap"])
        and each["number"] == str(at)
        for at, each in enumerate(found, start=int(begin))
    )


def match_key(name: str) -> str | float | tuple[str, str | float]:
    """Return the key by which a name is matched: equal for 850, 850.0 and 8.5e2, and for t[850], ….

    Composed and decomposed accents are equal, too (Unicode NFC).
    """
    found = _OF_ARRAY.fullmatch(name)
    if found is not None:
        return unicodedata.normalize("NFC", found["array"]), _plain(found["label"])
    return _plain(name)


def _plain(text: str) -> str | float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    # float() accepts 1_0, which is a name
    if "_" in text or not math.isfinite(number):
        return unicodedata.normalize("NFC", text)
    return number


def _order(inputs: Sequence[str], features: Sequence[str]) -> tuple[int, ...] | None:
    """Return the number of the feature for each input; None if the names differ."""
    reduce = _reducer(inputs, features)
    place = {reduce(name): at for at, name in enumerate(features)}
    wanted = [reduce(name) for name in inputs]
    distinct = len(set(wanted)) == len(inputs) and len(place) == len(features)
    if not distinct or set(wanted) != set(place):
        return None
    return tuple(place[each] for each in wanted)


def _reducer(*sides: Sequence[str]) -> Callable[[str], object]:
    """Return `match_key`, or `str` if two names of one side have the same key."""
    if any(len({match_key(name) for name in names}) < len(names) for names in sides):
        return str
    return match_key


def difference(inputs: Sequence[str], features: Sequence[str]) -> str:
    """Describe how the names of the network's inputs and of X's features differ."""
    for whose, names in (("the network", inputs), ("X", features)):
        twice = [name for name, count in Counter(names).items() if count > 1]
        if twice:
            return (
                "the network's inputs and X's features cannot be matched by name: "
                f"{whose} has {sanitize(twice[0])!r} twice"
            )
    reduce = _reducer(inputs, features)
    mine, theirs = ({reduce(name) for name in names} for names in (inputs, features))
    alone = [name for name in inputs if reduce(name) not in theirs]
    others = [name for name in features if reduce(name) not in mine]
    text = "; ".join(
        f"{whose} alone has {listed(names)}{f' ({len(names):,} names)' * (len(names) > _LISTED)}"
        for whose, names in (("the network", alone), ("X", others))
        if names
    )
    near = []
    for name in alone[:_COMPARED]:
        found = get_close_matches(name, others[:_COMPARED], n=1, cutoff=0.6)
        near += [f"{sanitize(name)} may be X's {sanitize(each)}" for each in found]
    hint = f" ({', '.join(near[:_FEW])})" if near else ""
    return f"the network's inputs and X's features have different names: {text}{hint}"
