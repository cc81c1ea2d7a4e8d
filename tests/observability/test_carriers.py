"""Contexts in the headers of messages: each event gets its own, nobody another's, and rubbish is no context."""

from hypothesis import given
from hypothesis import strategies as st

from streams import amqp
from streams.telemetry import carriers, tracing

CONTEXT = st.builds(
    lambda trace, span: f"00-{trace:032x}-{span:016x}-01",
    st.integers(1, 2**128 - 1),
    st.integers(1, 2**64 - 1),
)


@given(st.integers(1, 40), st.data())
def test_every_event_gets_back_its_own_contexts(events: int, data: st.DataObject) -> None:
    some = data.draw(
        st.dictionaries(st.integers(0, events - 1), st.lists(CONTEXT, min_size=1, max_size=3, unique=True))
    )
    headers = carriers.written(some, events)
    over_the_wire = amqp.decode(amqp.encode(b"k", b"v", headers)).headers
    assert carriers.read(over_the_wire, events) == some


def test_another_clients_traceparent_is_of_every_event() -> None:
    one = f"00-{7:032x}-{9:016x}-01"
    assert carriers.read({"traceparent": one}, 3) == {0: [one], 1: [one], 2: [one]}


@given(st.text(), st.text())
def test_rubbish_in_the_headers_is_no_context(one: str, many: str) -> None:
    for found in carriers.read({"traceparent": one, "traceparents": many}, 5).values():
        assert all(tracing.parsed(context) for context in found)


def test_what_is_not_sampled_has_no_context_and_no_headers() -> None:
    assert tracing.parsed(f"00-{7:032x}-{9:016x}-00") is None
    assert tracing.parsed(f"00-{0:032x}-{9:016x}-01") is None
    assert carriers.written({}, 5) == {}
    assert carriers.headers_for('[{"payment_id": "p"}]') == {}
