"""Writes histories as a driver would, for tests of the judge and of the figures."""

from __future__ import annotations

from tests.chaos import history
from tests.chaos.checking import KINDS, Verdict, judge
from tests.chaos.history import (
    Attached,
    Event,
    Fail,
    Invoke,
    Ok,
    Recorder,
    Run,
    Seen,
    Unknown,
)

USER = "ada"
PEERS = ["peer-1", "peer-2", "peer-3"]
LATE = 1_000.0  # when the last states are read


class Forge:
    """Writes a history as a driver would; times are given, so that overlaps are as meant."""

    def __init__(self) -> None:
        self.recorder = Recorder()
        self.recorder.add(Run(at=0.0, seed=1, options={}, peers=PEERS))
        self._ids: dict[str, int] = {}

    def write(
        self,
        op: str,
        began: float,
        ended: float | None,
        outcome: str = "ok",
        *,
        refs: str = "r1",
        value: str = "",
        count: int = -1,
        first: int = 0,
        key: str = "",
        ids: list[int] | None = None,
        status: int = 200,
        code: str = "",
        ack: str = "",
    ) -> int:
        """A write of these refs (separated by spaces); its value is its number unless told."""
        n = self.recorder.next_number()
        names = refs.split()
        if value == "" and not first:
            value = str(n)
        self.recorder.add(
            Invoke(
                at=began, n=n, process="forger", op=op, user=USER, refs=names, value=value,
                count=count, key=key, first=first, ack=ack,
            )
        )  # fmt: skip
        if ended is None:
            return n
        if ids is None:
            ids = [self.id_of(name) for name in names] if op in history.CREATES else []
        kinds: dict[str, type[Ok | Fail | Unknown]] = {"ok": Ok, "fail": Fail, "unknown": Unknown}
        kind = kinds[outcome]
        self.recorder.add(kind(at=ended, n=n, status=status, code=code, ids=ids))
        return n

    def id_of(self, ref: str) -> int:
        """The id that a ref has unless another was answered."""
        return self._ids.setdefault(ref, len(self._ids) + 1)

    def seen(self, ref: str, made: int, value: int | None = None, **more: object) -> Seen:
        """A row; it shows its create unless another writer is named."""
        shown = str(made if value is None else value)
        fields: dict[str, object] = {
            "id": self.id_of(ref), "ref": ref, "made": str(made), "value": shown, "side": shown,
            "version": f"v{shown}",
        }  # fmt: skip
        return Seen(**(fields | more))  # type: ignore[arg-type]

    def read(
        self,
        op: str,
        began: float,
        seen: list[Seen],
        *,
        refs: str = "",
        tags: list[str] | None = None,
        after: list[int] | None = None,
        final: tuple[str, str] | None = None,
        whole: bool | None = None,
        status: int = 200,
        consistency: str = "",
    ) -> int:
        """A read of a tenth of a second. A list shows everything."""
        n = self.recorder.next_number()
        self.recorder.add(
            Invoke(
                at=began, n=n, process="reader", op=op, user=USER, refs=refs.split(),
                after=after or [], final=final, consistency=consistency,
            )
        )  # fmt: skip
        is_whole = op == "list" if whole is None else whole
        self.recorder.add(
            Ok(at=began + 0.1, n=n, status=status, seen=seen, tags=tags or [], is_whole=is_whole)
        )
        return n

    def end(self, *seen: Seen, phase: str = "healed", **of_peer: list[Seen]) -> None:
        """What every peer shows at the end; `peer_2=[...]` is what that one shows instead."""
        for place, peer in enumerate(PEERS):
            rows = of_peer.get(peer.replace("-", "_"), list(seen))
            self.read("list", LATE + place, rows, final=(peer, phase))

    def attached(self, *values: str, **of_peer: list[str]) -> None:
        """What is attached in every peer's store at the end; `peer_2=[...]` as for `end`."""
        for peer in PEERS:
            held = of_peer.get(peer.replace("-", "_"), list(values))
            self.add(Attached(at=LATE + 10, peer=peer, values=held))

    def add(self, event: Event) -> None:
        """Any other event."""
        self.recorder.add(event)

    def judged(self) -> Verdict:
        """The verdict, without asking for a least number of operations."""
        return judge(self.recorder.history(), acknowledged_min=0)


def only(verdict: Verdict, kind: str, count: int | None = None) -> None:
    """There is this kind of anomaly and no other."""
    assert {one.kind for one in verdict.anomalies} == {kind}, verdict.anomalies
    if count is not None:
        assert len(verdict.anomalies) == count, verdict.anomalies


def clean(verdict: Verdict) -> None:
    """Nothing is wrong, and it could be judged."""
    assert verdict.anomalies == []
    assert verdict.cannot == []
    assert verdict.counts() == dict.fromkeys(KINDS, 0)
