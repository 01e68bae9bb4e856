"""Addresses as people write them, and which of several is dialled when. No sockets."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastserve.client.addresses import Address, parse_addresses
from fastserve.client.ring import AddressRing
from fastserve.errors import ConfigError


def test_a_list_of_all_kinds() -> None:
    assert parse_addresses("a:81, [::1]:8080,unix:/run/x.sock, http://host, https://host:444 ,b") == [
        Address("a", 81),
        Address("::1", 8080),
        Address("", 0, "/run/x.sock"),
        Address("host", 80),
        Address("host", 444, None, True),
        Address("b", 80),
    ]


@pytest.mark.parametrize(
    ("text", "is_tls", "address"),
    [
        ("a", None, Address("a", 80)),
        ("a", False, Address("a", 80)),
        ("a", True, Address("a", 443, None, True)),
        ("a:80", True, Address("a", 80, None, True)),
        ("http://a", False, Address("a", 80)),
        ("https://a", None, Address("a", 443, None, True)),
        ("https://a/", True, Address("a", 443, None, True)),
        ("HTTPS://EXAMPLE.Com", None, Address("example.com", 443, None, True)),
        ("https://[::1]", None, Address("::1", 443, None, True)),
        ("[0:0::1]", None, Address("::1", 80)),
        ("[fe80::1%eth0]:1", None, Address("fe80::1%eth0", 1)),
        ("127.0.0.1:65535", None, Address("127.0.0.1", 65535)),
        ("my_host.internal.:1", None, Address("my_host.internal.", 1)),
        ("bücher.example", None, Address("xn--bcher-kva.example", 80)),
        ("unix:/run/a b.sock", None, Address("", 0, "/run/a b.sock")),
        ("unix:///run/x.sock", None, Address("", 0, "/run/x.sock")),
        ("unix:x.sock", True, Address("", 0, "x.sock", True)),
    ],
)
def test_one(text: str, is_tls: bool | None, address: Address) -> None:
    assert parse_addresses(text, is_tls=is_tls) == [address]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has an empty address"),
        ("a,,b", "'a,,b' has an empty address"),
        ("a,", "has an empty address"),
        ("::1", "'::1' is ambiguous: an IPv6 address stands in brackets"),
        ("a:80:90", "ambiguous"),
        ("[::1", r"is not \[IPv6\]"),
        ("[::1]80", r"is not \[IPv6\]"),
        ("[::g]:80", "is no IPv6 address"),
        ("[127.0.0.1]:80", "is no IPv6 address"),
        ("a:", "port ''"),
        ("a:0", "'a:0' has port '0': takes 1 to 65535"),
        ("a:65536", "takes 1 to 65535"),
        ("a:-1", "takes 1 to 65535"),
        ("a:+1", "takes 1 to 65535"),
        ("a:\u0661", "takes 1 to 65535"),
        ("a:http", "takes 1 to 65535"),
        (":80", "has no host"),
        ("http://", "has no host"),
        ("http://a/path", "has a path"),
        ("a?x", "has a query"),
        ("a#x", "has a fragment"),
        ("user@a", "has a user"),
        ("ftp://a", "begins with ftp://: takes http://, https:// or unix:"),
        ("a b", "no name"),
        ("a\r\nb", "no name"),
        ("a\0", "no name"),
        ("-a", "no name"),
        ("a..b", "no name"),
        ("x" * 64, "no name"),
        (".".join(["x" * 60] * 5), "no name"),
        ("unix:", "names no socket"),
        ("unix:a\0b", "names no socket"),
    ],
)
def test_what_is_none(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_addresses(text)


@pytest.mark.parametrize(("text", "is_tls"), [("http://a", True), ("https://a", False)])
def test_a_scheme_may_not_be_contradicted(text: str, is_tls: bool) -> None:
    with pytest.raises(ConfigError, match=f"and is_tls is {is_tls}"):
        parse_addresses(text, is_tls=is_tls)


@pytest.mark.parametrize("text", ["a:80", "[::1]:8080", "unix:/run/x.sock", "[fe80::1%eth0]:443"])
def test_as_text_it_is_what_was_parsed(text: str) -> None:
    assert [str(address) for address in parse_addresses(text)] == [text]


@given(st.text(max_size=30))
def test_any_text_is_parsed_or_refused(text: str) -> None:
    try:
        addresses = parse_addresses(text)
    except ConfigError:
        return
    assert parse_addresses(",".join(str(address) for address in addresses)) == [
        Address(address.host, address.port, address.uds) for address in addresses
    ]


# The ring


def ring_of(count: int) -> AddressRing:
    return AddressRing(parse_addresses(",".join("abcdefgh"[:count])), backoff=1.0, max_backoff=4.0)


def test_round_robin() -> None:
    ring = ring_of(3)
    assert [ring.order(0.0) for _ in range(4)] == [[0, 1, 2], [1, 2, 0], [2, 0, 1], [0, 1, 2]]


def test_a_bad_one_is_left_out_and_the_others_share_evenly() -> None:
    ring = ring_of(3)
    ring.failed(1, 0.0)
    assert ring.left_out(0.9) == [Address("b", 80)]
    assert [ring.order(0.9) for _ in range(4)] == [[0, 2, 1], [2, 0, 1], [0, 2, 1], [2, 0, 1]]


def test_it_comes_back_by_itself() -> None:
    ring = ring_of(2)
    ring.failed(0, 0.0)
    assert ring.left_out(1.0) == []
    assert ring.order(1.0) == [0, 1]


def test_one_dial_tries_what_comes_back() -> None:
    ring = ring_of(2)
    ring.failed(0, 0.0)
    assert ring.order(1.0) == [0, 1]
    assert [ring.order(1.0) for _ in range(3)] == [[1, 0]] * 3
    ring.succeeded(0)
    assert [ring.order(1.0) for _ in range(2)] == [[0, 1], [1, 0]]


def test_a_trial_that_is_given_up_ends_by_itself() -> None:
    ring = ring_of(2)
    ring.failed(0, 0.0)
    assert ring.order(1.0) == [0, 1]  # and then the dial is cancelled: no word of it
    assert ring.order(1.9) == [1, 0]
    assert ring.order(2.0) == [0, 1]


def test_the_back_off_doubles_up_to_its_bound() -> None:
    ring = ring_of(2)
    now = 0.0
    for seconds in (1.0, 2.0, 4.0, 4.0, 4.0):
        ring.failed(0, now)
        assert ring.left_out(now + seconds - 0.1) == [Address("a", 80)]
        now += seconds
        assert ring.left_out(now) == []
        while ring.order(now)[0] != 0:
            pass
    for _ in range(2000):  # a float's exponent has an end
        ring.failed(0, now)
        now += 4.0
        ring.order(now)
        ring.order(now)
    ring.succeeded(0)
    ring.failed(0, now)
    assert ring.left_out(now + 1.0) == []  # all is forgiven


def test_failures_at_one_time_are_one() -> None:
    ring = ring_of(2)
    for _ in range(64):
        ring.failed(0, 0.0)
    assert ring.left_out(1.0) == []


def test_all_are_tried_when_all_are_bad() -> None:
    ring = ring_of(3)
    for index in range(3):
        ring.failed(index, 0.0)
    assert [ring.order(0.5) for _ in range(3)] == [[0, 1, 2], [1, 2, 0], [2, 0, 1]]
    ring.succeeded(2)
    assert ring.order(0.5) == [2, 0, 1]


def test_bad_options() -> None:
    with pytest.raises(ConfigError, match="no address"):
        AddressRing([])
    for backoff, most in ((0.0, 1.0), (2.0, 1.0), (1.0, float("inf")), (float("nan"), 1.0)):
        with pytest.raises(ConfigError, match="backoff"):
            AddressRing(parse_addresses("a"), backoff=backoff, max_backoff=most)


@given(
    st.integers(1, 5),
    st.lists(
        st.tuples(st.sampled_from(["order", "failed", "succeeded"]), st.integers(0, 4), st.floats(0, 3)), max_size=60
    ),
)
def test_invariants(count: int, events: list[tuple[str, int, float]]) -> None:
    """Each address once, those left out last; none left out longer than the bound after its last failure or trial."""
    ring = ring_of(count)
    now = 0.0
    for event, index, later in events:
        now += later
        left_out = ring.left_out(now)
        if event == "order":
            order = ring.order(now)
            assert sorted(order) == list(range(count))
            assert [ring.addresses[i] in left_out for i in order] == sorted(
                ring.addresses[i] in left_out for i in order
            )
        elif event == "failed":
            ring.failed(index % count, now)
            assert ring.addresses[index % count] in ring.left_out(now)
        else:
            ring.succeeded(index % count)
            assert ring.addresses[index % count] not in ring.left_out(now)
        assert ring.left_out(now + 4.0) == []
