"""The parts of `scripts/bench`: bare clients against servers of this test, blocks, goals, noise."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
import uvloop

from tests.bench import __main__ as command
from tests.bench.speed import blocks, bus, cases, goals, machine, raw, report, standing, web
from tests.bench.speed.blocks import Block, Figure
from tests.bench.speed.report import Point, Report

Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def served(talk: Talk) -> AsyncIterator[int]:
    """The port of a server that does this with each connection."""
    talks: list[asyncio.Task[None]] = []

    async def talked(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await talk(reader, writer)
        except asyncio.IncompleteReadError:
            pass  # the caller hung up
        finally:
            writer.close()
            await writer.wait_closed()

    def begin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        talks.append(asyncio.create_task(talked(reader, writer)))

    async with await asyncio.start_server(begin, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]
        await asyncio.gather(*talks)


async def bus_server(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Logs in whoever knows the password, and answers each request with its own body, in pieces."""
    writer.write(b'INFO {"headers":true}\r\n')
    known = json.loads((await reader.readline()).removeprefix(b"CONNECT "))
    if known["pass"] != "secret":
        writer.write(b"-ERR 'Authorization Violation'\r\n")
        return
    while line := await reader.readline():
        fields = line.split()
        if fields[0] == b"PING":
            writer.write(b"PONG\r\nPING\r\n")
        elif fields[0] in (b"PUB", b"HPUB"):
            body = (await reader.readexactly(int(fields[-1]) + 2))[:-2]
            kind, sizes = b"MSG", b"%d" % len(body)
            if fields[0] == b"HPUB":
                kind, sizes = b"HMSG", b"%b %d" % (fields[3], len(body))
            answer = b"%b %b 1 %b\r\n%b\r\n" % (kind, fields[2], sizes, body)
            for place in range(0, len(answer), 7):
                writer.write(answer[place : place + 7])
                await writer.drain()


async def test_the_bare_bus_client_reads_what_comes_in_pieces() -> None:
    async with served(bus_server) as port:
        known = {"user": "u", "password": "secret", "inbox_prefix": "_I"}
        connection = await bus.connect("127.0.0.1", port, known)
        headers = bus.header_block({"X-API-Key": "k"})
        plain, headed = await asyncio.gather(
            connection.request(b"a.b", b"", b"one\r\ntwo"),
            connection.request(b"a.b", headers, b"x" * 100),
        )
        connection.close()
    assert plain == (b"", b"one\r\ntwo")
    assert headed == (headers, b"x" * 100)
    assert b"X-API-Key: k\r\n" in headers


async def test_the_bare_bus_client_says_what_the_server_refused() -> None:
    async with served(bus_server) as port:
        known = {"user": "u", "password": "wrong", "inbox_prefix": "_I"}
        with pytest.raises(bus.BusError, match="Authorization"):
            await bus.connect("127.0.0.1", port, known)


async def web_server(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answers each POST with its own body, in two pieces; ends the connection at `/end`."""
    while head := await reader.readuntil(b"\r\n\r\n"):
        if head.startswith(b"POST /end"):
            return
        size = int(head.partition(b"Content-Length: ")[2].split()[0])
        body = await reader.readexactly(size)
        writer.write(b"HTTP/1.1 201 Created\r\nContent-Length: %d\r\n\r\n" % size + body[:3])
        await writer.drain()
        writer.write(body[3:])


async def test_the_bare_web_client_keeps_its_connection() -> None:
    async with served(web_server) as port:
        connection = await web.connect("127.0.0.1", port)
        head = web.request_head("/memory/add", {"X-API-Key": "k"})
        assert await connection.request(head, b'{"text": "a"}') == (201, b'{"text": "a"}')
        assert await connection.request(head, b"") == (201, b"")
        with pytest.raises(web.WebError):
            await connection.request(web.request_head("/end", {}), b"")


async def test_a_closed_loop_keeps_so_many_in_flight_and_counts_processor_time() -> None:
    running, most, used = 0, 0, 0.0

    async def step() -> None:
        nonlocal running, most, used
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        used += 0.002
        running -= 1

    one = blocks.case("x", step, 4, lambda: {"peer-1": used}, counted=50)
    block = await one.measure(0.02)
    assert most == 4
    assert block.count % 50 == 0
    assert block.cpu_s["peer-1"] / block.count == pytest.approx(0.002 / 50, rel=0.01)
    assert block.cpu_ms == pytest.approx(0.04, rel=0.01)
    assert 0 < block.p50_ms <= block.p95_ms <= block.p99_ms


async def test_a_few_refusals_are_counted_and_many_end_the_run() -> None:
    number = 0

    async def step() -> None:
        nonlocal number
        number += 1
        if number % every == 0:
            raise blocks.RefusedError("clock ahead")
        await asyncio.sleep(0)

    every = 50
    block = await blocks.case("x", step, 2, dict).measure(0.02)
    assert 0 < block.refused < block.count / 20
    every = 5
    with pytest.raises(blocks.RefusedError, match="clock ahead"):
        await blocks.case("x", step, 2, dict).measure(0.02)


async def test_cases_are_measured_in_turns() -> None:
    order = []

    def case(name: str) -> blocks.Case:
        async def measure(_seconds: float) -> Block:
            order.append(name)
            return block_of(1.0)

        return blocks.Case(name, 1, measure)

    found = await blocks.in_turns(
        [case("a"), case("b")], rounds=2, seconds=0.01, told=lambda _: None
    )
    assert order == ["a", "b", "a", "b", "b", "a"]  # the first two warm up
    assert [len(figure.blocks) for figure in found.values()] == [2, 2]


def block_of(p50_ms: float, per_second: float = 1_000.0) -> Block:
    cpu_s = {"peer-1": 0.1, "load": 0.2}
    return Block(
        count=int(per_second), seconds=1.0, p50_ms=p50_ms, p95_ms=2 * p50_ms, p99_ms=3 * p50_ms,
        cpu_s=cpu_s,
    )  # fmt: skip


def figure_of(name: str, *made: Block) -> Figure:
    async def measure(_seconds: float) -> Block:
        raise AssertionError

    return blocks.figure(blocks.Case(name, 1, measure), list(made))


def figures_of(**blocks_by_name: list[Block]) -> dict[str, Figure]:
    return {
        getattr(cases, name): figure_of(getattr(cases, name), *made)
        for name, made in blocks_by_name.items()
    }


def test_a_ratio_is_of_blocks_of_one_round() -> None:
    """A machine that is slow in one round is slow for all: the ratio does not see it."""
    ours = figure_of("ours", block_of(4.0), block_of(40.0), block_of(8.0))
    limits = [
        figure_of("a", block_of(1.0), block_of(10.0), block_of(1.0)),
        figure_of("b", block_of(1.0), block_of(10.0), block_of(1.0)),
    ]
    assert blocks.median_ratio(ours, limits, lambda block: block.p50_ms) == 2.0
    assert ours.p50_ms == 8.0
    assert ours.spread == 10.0


def test_a_goal_on_a_ratio_on_a_distance_and_on_a_figure() -> None:
    figures = figures_of(
        ADD=[block_of(4.4)], PUBLISH=[block_of(1.6)], REQUEST=[block_of(0.4)],
        BARE_RECALL=[block_of(2.0)], WEB_RECALL=[block_of(3.5)],
        WEB_RECALL_16=[block_of(1.0, 1_300.0)], RECALL_16=[block_of(1.0, 2_000.0)],
    )  # fmt: skip
    found = {line.measure: line for line in goals.lines_of(figures)}
    add = found["add over NATS, one at a time, p50"]
    assert (add.figure, add.limit, add.is_met) == (4.4, 2.0, True)
    assert add.value == add.ratio == pytest.approx(2.2)
    apart = found["recall over HTTP, p50 above NATS"]
    assert (apart.value, apart.is_met) == (1.5, False)
    rate = found["recalls/s over HTTP, 16 in flight"]
    assert (rate.value, rate.is_met) == (1_300.0, True)


def test_what_was_not_measured_is_said_and_not_made_up() -> None:
    figures = figures_of(ADD_64=[block_of(1.0)], RECALL=[block_of(1.0)])
    for line in goals.lines_of(figures):
        assert line.figure is not None
        assert (line.limit, line.ratio, line.value, line.is_met) == (None,) * 4
        assert "--postgres" in line.note
    assert len(goals.lines_of(figures)) == 2


def test_the_reasons_to_doubt_a_run() -> None:
    quiet = machine.Noise(load=[0.1, 2.0], stolen=0.001, others=0.05, spread=1.1)
    assert quiet.reasons == []
    busy = machine.Noise(load=[4.0, 5.0], stolen=0.1, others=0.8, spread=3.0)
    assert len(busy.reasons) == 3
    assert msgspec.structs.replace(quiet, others=None).reasons == []


def test_processor_time_of_this_process_and_of_none() -> None:
    import os

    assert machine.cpu_seconds(os.getpid()) > 0.0
    assert machine.cpu_seconds(2**22 + 1) == 0.0
    assert machine.resident_bytes(os.getpid()) > 1e6


def test_the_bare_index_and_the_bare_store(tmp_path: Path) -> None:
    search = uvloop.run(raw.searches("search", 200).measure(0.02))
    assert search.count > 1
    inserted = uvloop.run(raw.inserts("insert", tmp_path).measure(0.02))
    (file,) = tmp_path.glob("raw-*.db")
    with sqlite3.connect(file) as database:
        (rows,) = database.execute("SELECT count(*) FROM records").fetchone()
    assert 0 < inserted.count <= rows
    assert rows % raw.BATCH_ROWS == 0


def test_what_memories_come_to() -> None:
    one, two = standing.content_of({"a": 10}), standing.content_of({"a": 10, "b": 10})
    assert two.kept_bytes == 2 * one.kept_bytes
    assert two.hot_bytes == 2 * one.hot_bytes
    assert one.kept_bytes == 10 * 4 * 256 + one.text_bytes + 10 * len('{"a": 1}')


def test_the_report_names_each_line_with_its_goal(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    figures = figures_of(ADD=[block_of(4.4)], PUBLISH=[block_of(1.6)], REQUEST=[block_of(0.4)],
                         ADD_64=[block_of(9.0)])  # fmt: skip
    noise = machine.Noise(load=[4.0, 5.0], stolen=0.1, others=0.0, spread=1.0)
    made = Report(lines=goals.lines_of(figures), figures=list(figures.values()), noise=noise)
    report.show(made)
    shown = capsys.readouterr().out
    assert "<= 2.2 x" in shown
    assert "yes" in shown
    assert "no Postgres beside" in shown
    assert "10 % of the processor time was stolen" in shown
    first, second = report.as_json(made)["lines"]
    assert (first["is_met"], second["is_met"], second["ratio"]) == (True, None, None)
    json.dumps(report.as_json(made))
    plot = tmp_path / "plot.png"
    report.draw(
        [Point("add", 1, figures[cases.ADD]), Point("add", 64, figures[cases.ADD_64])], plot
    )
    assert plot.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["write", "--rounds", "0"], "--rounds: at least 1"),
        (["memory", "--plot", "x.png"], "--plot: only with"),
        (["nothing"], "no mode 'nothing'"),
    ],
)
def test_wrong_usage(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code = command.main(arguments)
    except SystemExit as ended:
        code = int(str(ended.code))
    assert code == 2
    assert said in capsys.readouterr().err
