"""Sharing an amount so that the parts sum to it exactly: largest remainder, ties by party id."""

from collections.abc import Mapping

from domain.money import Paise


def split(amount_paise: Paise, weights: Mapping[str, int]) -> dict[str, Paise]:
    """Share an amount in the proportion of the weights.

    Everyone gets the floor of their quota; the paise left over go one each to the largest remainders, ties to
    the lower party id. Errors: ValueError for a negative amount or weight, or weights that sum to zero.
    """
    total = sum(weights.values())
    if amount_paise < 0 or total <= 0 or min(weights.values()) < 0:
        raise ValueError("an amount and its weights are not negative, and someone has a weight")
    parts = {party: amount_paise * weight // total for party, weight in weights.items()}
    by_remainder = sorted(weights, key=lambda party: (-(amount_paise * weights[party] % total), party))
    for party in by_remainder[: amount_paise - sum(parts.values())]:
        parts[party] += 1
    return parts


def split_refund(refund_paise: Paise, remaining: Mapping[str, Paise]) -> dict[str, Paise]:
    """How much of a refund each party gives back, in proportion to what is left of their shares.

    Nobody gives more than they have left, and refunding everything in any slicing empties every share.
    Errors: ValueError if the refund is more than all that is left.
    """
    left = sum(remaining.values())
    if not 0 <= refund_paise <= left:
        raise ValueError("a refund is not negative and not more than what is left")
    return split(refund_paise, remaining) if left else dict.fromkeys(remaining, 0)
