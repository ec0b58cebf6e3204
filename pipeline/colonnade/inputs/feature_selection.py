"""Select features by name or number."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from difflib import get_close_matches

from colonnade.errors import InputError, sanitize
from colonnade.inputs.name_matching import match_key

__all__ = ["find_features"]


def find_features(
    path: str,
    wanted: Sequence[int | str] | None,
    count: int,
    names: Sequence[str] | None,
) -> tuple[int, ...] | None:
    """Return the numbers of the selected features, in the order of the selection.

    Parameters
    ----------
    count
        Number of features in the file.
    names
        Names of all features in the file, if they have any.

    Returns
    -------
    Numbers from 0 on; None if all features are selected.

    Raises
    ------
    InputError
        A feature does not exist, is selected twice, or shares its name with another.
    """
    if wanted is None:
        return None
    place = {name: i for i, name in enumerate(names or ())}
    often = Counter(names or ())
    # Let 850.0 match 850, unless two names are the same number
    alike = {match_key(name): name for name in place}
    if len(alike) < len(place):
        alike = {}
    found: dict[int, None] = {}
    for each in wanted:
        if isinstance(each, int):
            if each >= count:
                raise InputError(
                    f"{path}: there is no feature {each}; the file has {count}; give numbers "
                    f"from 0 to {count - 1} (input.features)."
                )
            at = each
        elif names is None:
            raise InputError(
                f"{path}: its features have no names; give numbers from 0 to {count - 1} instead "
                f"of {sanitize(each)!r} (input.features)."
            )
        elif often[each] > 1:
            raise InputError(
                f"{path}: {often[each]} features have the name {sanitize(each)!r}; give the "
                "number of the one you mean (input.features)."
            )
        elif each not in place and match_key(each) in alike:
            at = place[alike[match_key(each)]]
        elif each not in place:
            near = get_close_matches(each, list(place)[:10_000], n=1, cutoff=0.5)
            hint = f"Did you mean {sanitize(near[0])}? " if near else ""
            known = ", ".join(sanitize(name) for name in list(place)[:12])
            more = ", …" if len(place) > 12 else ""
            raise InputError(
                f"{path}: there is no feature {sanitize(each)!r}. {hint}The file has {known}{more} "
                "(input.features)."
            )
        else:
            at = place[each]
        if at in found:
            raise InputError(
                f"{path}: {sanitize(str(each))} is selected twice; remove one (input.features)."
            )
        # A dict keeps the order of the selection
        found[at] = None
    return tuple(found)
