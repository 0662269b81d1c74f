"""The ports of a local cluster: shifted together, tested before anything starts, clashes named."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

from memsync.errors import ConfigurationError
from memsync.local import ports
from memsync.local.ports import HOST, Ports


@pytest.fixture
def taken_port() -> Iterator[int]:
    """A port that this process listens on."""
    with socket.socket() as listening:
        listening.bind((HOST, 0))
        listening.listen()
        yield listening.getsockname()[1]


def test_the_default_ports_are_the_documented_ones() -> None:
    assert list(Ports().named()) == [
        ("nats-1", 4222),
        ("nats-1 (routes)", 6222),
        ("nats-2", 4223),
        ("nats-2 (routes)", 6223),
        ("nats-3", 4224),
        ("nats-3 (routes)", 6224),
        ("peer-1", 8081),
        ("peer-2", 8082),
        ("peer-3", 8083),
        ("gateways", 8080),
    ]


def test_an_offset_shifts_every_port() -> None:
    shifted = [port for _, port in Ports(100).named()]
    assert shifted == [port + 100 for _, port in Ports().named()]


def test_a_single_server_takes_no_routes() -> None:
    names = [name for name, _ in Ports(servers=1, peers=1).named()]
    assert names == ["nats-1", "peer-1", "gateways"]


@pytest.mark.parametrize(("text", "offset"), [("", 0), ("0", 0), (" 250 ", 250)])
def test_the_offset_comes_from_the_environment(text: str, offset: int) -> None:
    assert ports.offset_from({"MEMSYNC_PORT_OFFSET": text}) == offset


def test_without_the_variable_the_offset_is_zero() -> None:
    assert ports.offset_from({}) == 0


@pytest.mark.parametrize("text", ["-1", "many", "1.5", "57447"])
def test_a_wrong_offset_is_named(text: str) -> None:
    with pytest.raises(
        ConfigurationError, match=r"MEMSYNC_PORT_OFFSET: '.*' is not a whole number"
    ):
        ports.offset_from({"MEMSYNC_PORT_OFFSET": text})


def test_the_largest_offset_stays_below_the_last_port() -> None:
    offset = ports.offset_from({"MEMSYNC_PORT_OFFSET": str(ports.OFFSET_MAX)})
    assert max(port for _, port in Ports(offset).named()) <= 65_535


def test_a_clash_names_the_port_and_the_process(taken_port: int) -> None:
    clashing = Ports(taken_port - ports.HTTP_PORT, peers=0, servers=0)
    with pytest.raises(ConfigurationError) as raised:
        ports.check_free(clashing)
    message = str(raised.value)
    assert f"port {taken_port} (gateways) is taken by " in message
    assert f"(pid {os.getpid()})" in message
    assert "MEMSYNC_PORT_OFFSET" in message


def test_a_port_that_nobody_has_is_free(taken_port: int) -> None:
    assert not ports.is_free(taken_port)
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        free = probe.getsockname()[1]
    assert ports.is_free(free)
    assert ports.holder(free) == "another process"
