"""What the evaluation does to a cluster: a file becomes tasks, added and asked over HTTP."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any, TypeVar

import httpx
import msgspec
from rich.progress import Progress, TaskID

from memsync import errors
from memsync.cli.exits import UsageProblem
from memsync.cli.importing import locomo
from memsync.ids import Position
from memsync.wire import codec, context
from memsync.wire.replies import BulkAdded, QueryAnswer
from tests.bench import scoring
from tests.bench.scoring import Outcome, Question, QuestionsFound

ASKED_K = 50  # the most that one request may ask for; MRR is of these
BULK_ITEMS = 50
GAUGE = "memsync_memories_to_embed"
LOOK_S, QUIET_LOOKS = 1.5, 2
EMBEDDING_S_MAX = 300.0
OWN = Path(__file__).parents[1] / "data"

T = TypeVar("T")


class Task(msgspec.Struct, frozen=True):
    """A conversation: the end user it becomes, its turns as bodies of items, its questions."""

    user: str
    dia_ids: list[str]
    items: list[dict[str, Any]]
    asks: QuestionsFound


class Where(msgspec.Struct, frozen=True):
    """A cluster to ask; of one of its own also where its peers tell how they are."""

    url: str
    api_key: str
    peers: tuple[str, ...] = ()


def read_tasks(path: Path) -> list[Task]:
    """What a file asks for; raises `UsageProblem` where it is no such file."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UsageProblem(f"{path}: cannot be read ({error.strerror})") from error
    try:
        objects = locomo.read_objects(data)
        conversations = locomo.read_conversations(data)
        tasks = [_task(*both) for both in zip(objects, conversations, strict=True)]
    except (UsageProblem, msgspec.ValidationError) as problem:
        raise UsageProblem(f"{path}: {problem}") from problem
    if not any(task.asks.questions for task in tasks):
        raise UsageProblem(f'{path}: no question (under "qa") has evidence among the turns')
    return tasks


def paraphrase_task() -> Task:
    """Our own memories, in no session, and questions that share no word's stem with the one that
    answers them (tests/unit/bench/test_paraphrases.py)."""
    pairs = [line.split(" | ") for line in _lines("paraphrases.txt")]
    questions = [question for question, _ in pairs]
    return _own_task("paraphrases", scoring.PARAPHRASE, questions, [memory for _, memory in pairs])


def hops_task() -> Task:
    """Our own memories, in no session, and questions that are like one memory, which names what the
    one that answers them is about (tests/unit/bench/test_hops.py)."""
    triples = [line.split(" | ") for line in _lines("hops.txt")]
    questions = [question for question, _, _ in triples]
    answers, bridges = [last for _, _, last in triples], [first for _, first, _ in triples]
    return _own_task("hops", scoring.HOP, questions, answers, bridges)


def _own_task(
    name: str, category: int, questions: list[str], answers: list[str], others: Sequence[str] = ()
) -> Task:
    """Question i is answered by answer i, among others and 500 memories more."""
    texts = [*answers, *others, *_lines("distractors.txt")]
    names = [f"memory-{number}" for number in range(len(texts))]
    asked = [
        Question(question, category, frozenset({memory}))
        for question, memory in zip(questions, names, strict=False)
    ]
    user = f"eval-{name}-" + blake2b("\n".join(texts).encode(), digest_size=6).hexdigest()
    items = [{"text": text, "end_user_id": user} for text in texts]
    return Task(user, names, items, QuestionsFound(asked, 0, 0))


def _lines(name: str) -> list[str]:
    return (OWN / name).read_text(encoding="utf-8").splitlines()


def _task(found: dict[str, Any], conversation: locomo.Conversation) -> Task:
    items = [
        {name: value for name, value in msgspec.to_builtins(item).items() if value is not None}
        for item in locomo.items_of(conversation, "")
    ]
    digest = blake2b(codec.to_json(items), digest_size=6).hexdigest()
    user = f"eval-{digest}-{conversation.name}"
    dia_ids = [turn.dia_id for session in conversation.sessions for turn in session.turns]
    return Task(
        user=user,
        dia_ids=dia_ids,
        items=[{**item, "end_user_id": user} for item in items],
        asks=scoring.read_questions(found, frozenset(dia_ids)),
    )


class Evaluator:
    """One evaluation: adds and asks, one request at a time."""

    def __init__(self, http: httpx.AsyncClient, where: Where, progress: Progress) -> None:
        self._http = http
        self._where = where
        self._progress = progress
        self.created = 0
        self.degraded = 0
        self.embedding_s = 0.0  # waited for vectors
        self.unembedded = 0  # memories that had none of the model then

    async def run(self, tasks: Sequence[Task]) -> list[Outcome]:
        """Add all conversations, then ask all questions, each at a peer that has what was added."""
        adding = self._progress.add_task("adding", total=sum(len(task.items) for task in tasks))
        asking = self._progress.add_task(
            "asking", total=sum(len(task.asks.questions) for task in tasks)
        )
        added = []
        for task in tasks:
            added.append(await self._add(task, adding))
        await self._wait_embedded()
        outcomes = []
        for task, (dia_id_of, position) in zip(tasks, added, strict=True):
            for question in task.asks.questions:
                outcomes.append(await self._ask(task.user, question, dia_id_of, position))
                self._progress.advance(asking)
        return outcomes

    async def _wait_embedded(self) -> None:
        """Wait until the peers know of no memory that lacks a vector of their model: what a model
        does not embed in the time of a write is embedded afterwards. They look once a second, so
        it counts what they say twice, apart."""
        began_s = time.monotonic()
        quiet = 0
        while self._where.peers and quiet < QUIET_LOOKS:
            await asyncio.sleep(LOOK_S)
            lacking = [unembedded_in(await self._metrics(url)) for url in self._where.peers]
            self.unembedded = sum(lacking)
            quiet = 0 if self.unembedded else quiet + 1
            self.embedding_s = round(time.monotonic() - began_s, 3)
            if self.embedding_s > EMBEDDING_S_MAX:
                return

    async def _metrics(self, url: str) -> str:
        try:
            return (await self._http.get(f"{url}/metrics")).text
        except httpx.HTTPError as error:
            raise errors.NoCluster(f"no peer answers at {url} ({error})") from error

    async def _add(self, task: Task, adding: TaskID) -> tuple[dict[int, str], str]:
        """The turn of each memory id, and the position that holds them all."""
        dia_id_of: dict[int, str] = {}
        positions: dict[int, Position] = {}
        for start in range(0, len(task.items), BULK_ITEMS):
            items = task.items[start : start + BULK_ITEMS]
            key = "eval-" + blake2b(codec.to_json(items), digest_size=16).hexdigest()
            answer = await self._post(
                "/memory/bulk-add",
                {"items": items, "deduplicate": False},
                task.user,
                {context.IDEMPOTENCY_KEY: key},
            )
            added = _read(answer, BulkAdded)
            self.created += added.created
            for result in added.results:
                dia_id = task.dia_ids[start + result.index]
                if result.status == "rejected":
                    raise UsageProblem(f"{task.user}: {dia_id} was rejected: {result.reason}")
                dia_id_of |= dict.fromkeys(result.memory_ids, dia_id)
            for one in context.parse_positions(answer.headers.get(context.POSITION, "")):
                positions[one.stripe] = max(one, positions.get(one.stripe, one))
            self._progress.advance(adding, len(items))
        return dia_id_of, context.format_positions(list(positions.values()))

    async def _ask(
        self, user: str, question: Question, dia_id_of: dict[int, str], position: str
    ) -> Outcome:
        headers = {context.MIN_POSITION: position} if position else {}
        began_s = time.perf_counter()
        answer = await self._post(
            "/memory/query", {"query": question.text, "k": ASKED_K}, user, headers
        )
        took_s = time.perf_counter() - began_s
        found = _read(answer, QueryAnswer)
        self.degraded += found.degraded
        # A turn that was added by two attempts at once has two ids, of which one was answered.
        turns = [
            dia_id_of.get(memory.id, str(memory.metadata.get("dia_id")))
            for memory in found.memories
        ]
        return Outcome(question, turns, took_s)

    async def _post(
        self, path: str, body: dict[str, Any], user: str, headers: dict[str, str]
    ) -> httpx.Response:
        own = {context.API_KEY: self._where.api_key, "Content-Type": "application/json"}
        whose = {context.END_USER: user} if user.isascii() and user.isprintable() else {}
        try:
            answer = await self._http.post(
                self._where.url + path,
                content=codec.to_json({**body, "end_user_id": user}),
                headers={**own, **whose, **headers},
            )
        except httpx.HTTPError as error:
            reason = str(error) or type(error).__name__
            raise errors.NoCluster(f"no cluster answers at {self._where.url} ({reason})") from error
        if answer.status_code >= 300:
            raise errors.error_from_answer(_read(answer, errors.ErrorAnswer))
        return answer


def unembedded_in(metrics: str) -> int:
    """How many memories a peer's metrics say to lack a vector; 0 where they do not say."""
    found = re.search(rf"^{GAUGE} (\S+)$", metrics, re.MULTILINE)
    return int(float(found[1])) if found else 0


def _read(answer: httpx.Response, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(answer.content, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise errors.NoCluster(
            f"the answer (status {answer.status_code}) of {answer.url} is not of the memsync API"
        ) from error
