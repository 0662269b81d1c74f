"""Callers who relate memories and say what they were worth, each time with a word of their own."""

from __future__ import annotations

from tests.simulation.asking import Asking, Client

TYPES = ("similar", "supports")  # few, so that one is put in the place of another
SIGNALS = ("positive", "negative", "retrieved", "ignored")
USES = ("plain", "shared", "counter")  # each is one record, whoever else adds


class Attachers:
    """All of them."""

    def __init__(self, asking: Asking) -> None:
        self._asking = asking

    async def relate(self, client: Client) -> None:
        """Two memories of a user, most often two that were related before."""
        asking, chance = self._asking, self._asking.chance
        user = asking.user()
        known = [one for one in asking.known(*USES) if one.user == user]
        lasting = [one for one in asking.known("shared", "counter") if one.user == user]
        if len(lasting) > 1 and chance.random() < 0.6:
            known = lasting
        ids = {one.token: one.id for one in known}  # two ids of one memory are not related
        if len(ids) < 2:
            return
        ends = chance.sample(list(ids.values()), 2)
        token = asking.word("v")
        body = {
            "memory_id": ends[0],
            "to_memory_id": ends[1],
            "relationship_type": chance.choice(TYPES),
            "metadata": {"v": token},
        }
        effect = await asking.effect("relate", user, "memory.relate", body, [token], targets=ends)
        await asking.write(client, effect)

    async def feedback(self, client: Client) -> None:
        """One signal."""
        asking = self._asking
        known = asking.pick("plain", "shared", "shared", "counter")
        if known is None:
            return
        token = asking.word("g")
        body = {
            "memory_id": known.id,
            "signal": asking.chance.choice(SIGNALS),
            "comment": token,
        }
        effect = await asking.effect(
            "feedback", known.user, "memory.feedback", body, [token], targets=[known.id]
        )
        await asking.write(client, effect)
