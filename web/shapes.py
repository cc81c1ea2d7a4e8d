"""Bodies, queries and answers of the API. Amounts are integers with their unit in the name, times RFC 3339.

Fields that nobody knows are refused. An answer leaves nothing out: what is not known is null.
"""

from typing import Annotated

from msgspec import Meta, Struct

Text = Annotated[str, Meta(min_length=1, max_length=200)]
Phone = Annotated[str, Meta(pattern=r"^\+?[0-9]{8,15}$")]
Email = Annotated[str, Meta(pattern=r"^[^@\s]{1,64}@[^@\s]{1,255}$", max_length=254)]
StateCode = Annotated[str, Meta(pattern=r"^[0-9]{2}$", description="a GST State code")]
Gstin = Annotated[str, Meta(pattern=r"^[0-9]{2}[A-Z0-9]{13}$")]
Url = Annotated[str, Meta(pattern=r"^https?://[^\s]+$", max_length=500)]
Limit = Annotated[int, Meta(ge=1, le=200)]
WaitMs = Annotated[int, Meta(ge=0, le=10_000)]


class Body(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What a caller sends."""


class Query(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What stands after the question mark."""


class Answer(Struct, frozen=True, kw_only=True):
    """What we send."""


class NoQuery(Query, frozen=True):
    """No parameter at all."""


class Nothing(Body, frozen=True):
    """No field at all; an empty body will do."""
