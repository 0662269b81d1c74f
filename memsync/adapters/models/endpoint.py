"""Models behind an OpenAI-compatible HTTP endpoint: `POST /embeddings` and `/chat/completions`.

Nothing that comes back is trusted: its size is bounded before it is parsed, vectors are checked for
number, size and finiteness and brought to length 1. Whatever is wrong is an `Unavailable` that
names the fact and neither the text nor the key. How long a call may take is for the caller to say
(it cancels, which closes the connection); the time-outs here only bound each step of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar
from urllib.parse import urlsplit

import httpx
import msgspec
import numpy as np
from numpy.typing import NDArray

from memsync import limits
from memsync.errors import NoRoom, Unavailable

NUMBER_BYTES_MAX = 32  # of one number of a vector as JSON
FRAME_BYTES_MAX = 64 * 1024  # of an answer, beside its numbers
CHAT_BYTES_MAX = 64 * 1024
CHAT_TOKENS_MAX = 120
PART_CHARS_MAX = 200
ASKED = (
    "Rewrite the question for a search engine over one person's notes. Answer with at most "
    f"{limits.REASONED_PARTS_MAX} short, self-contained search queries that together find what is "
    "needed to answer it, one on each line, and nothing else. Do not answer the question."
)
LOCAL_HOSTS = ("127.0.0.1", "::1", "localhost")

Answer = TypeVar("Answer")


class _Embedding(msgspec.Struct):
    embedding: list[float]
    index: int | None = None


class _Embeddings(msgspec.Struct):
    data: list[_Embedding]


class _Message(msgspec.Struct):
    content: str


class _Choice(msgspec.Struct):
    message: _Message


class _Completion(msgspec.Struct):
    choices: list[_Choice]


class Endpoint:
    """One server of models. `headers` may carry a secret: they are never logged."""

    def __init__(self, name: str, url: str, headers: Mapping[str, str], timeout_s: float) -> None:
        self.name = name
        is_local = urlsplit(url).hostname in LOCAL_HOSTS
        self._url = url.rstrip("/")
        self._calls = 0
        self._client = httpx.AsyncClient(
            # Answers as they are: a compressed one could unfold to anything.
            headers={"Accept-Encoding": "identity", "Accept": "application/json", **headers},
            timeout=timeout_s,
            limits=httpx.Limits(max_connections=limits.EMBED_CALLS_MAX, keepalive_expiry=30),
            follow_redirects=False,
            trust_env=not is_local,
        )

    async def post(self, path: str, body: object, kind: type[Answer], *, bytes_max: int) -> Answer:
        """What the endpoint answers, decoded; raises `NoRoom` where too many calls are under way,
        and `Unavailable` for anything else."""
        if self._calls >= limits.EMBED_CALLS_MAX:
            raise NoRoom(f"{self.name}: {self._calls} calls are under way")
        self._calls += 1
        try:
            data = await self._post(path, msgspec.json.encode(body), bytes_max)
            return msgspec.json.decode(data, type=kind)
        except httpx.HTTPError as error:
            raise Unavailable(f"{self.name}: {type(error).__name__}") from error
        except msgspec.DecodeError as error:
            raise Unavailable(f"{self.name}: the answer is not of its kind ({error})") from error
        finally:
            self._calls -= 1

    async def _post(self, path: str, body: bytes, bytes_max: int) -> bytes:
        headers = {"Content-Type": "application/json"}
        url = self._url + path
        async with self._client.stream("POST", url, content=body, headers=headers) as response:
            if response.status_code != 200:
                raise Unavailable(f"{self.name}: status {response.status_code}")
            data = bytearray()
            async for chunk in response.aiter_raw():
                data += chunk
                if len(data) > bytes_max:
                    raise Unavailable(f"{self.name}: an answer of more than {bytes_max} bytes")
            return bytes(data)

    async def close(self) -> None:
        """End the connections."""
        await self._client.aclose()


class EndpointEmbedder:
    """An `Embedder`: a model of embeddings behind an endpoint."""

    def __init__(self, endpoint: Endpoint, model: str, dimensions: int) -> None:
        self._endpoint = endpoint
        self.name = model
        self.dimensions = dimensions

    async def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """(n, dimensions) float32, rows of length 1, or zeros for a row that the model has left
        without direction. Raises `Unavailable`."""
        if not texts:
            return np.zeros((0, self.dimensions), np.float32)
        clean = [text.encode("utf-8", "ignore").decode() for text in texts]
        answer = await self._endpoint.post(
            "/embeddings",
            {"model": self.name, "input": clean, "encoding_format": "float"},
            _Embeddings,
            bytes_max=FRAME_BYTES_MAX + len(texts) * self.dimensions * NUMBER_BYTES_MAX,
        )
        return self._checked(answer.data, len(texts))

    def _checked(self, found: list[_Embedding], count: int) -> NDArray[np.float32]:
        name = self._endpoint.name
        if len(found) != count:
            raise Unavailable(f"{name}: {len(found)} vectors for {count} texts")
        if any(one.index is not None for one in found):
            if {one.index for one in found} != set(range(count)):
                raise Unavailable(f"{name}: the vectors' indexes are not those of the texts")
            found = sorted(found, key=lambda one: one.index or 0)
        sizes = {len(one.embedding) for one in found}
        if sizes != {self.dimensions}:
            raise Unavailable(f"{name}: vectors of {sorted(sizes)} numbers, not {self.dimensions}")
        vectors = np.array([one.embedding for one in found], np.float64)
        if not np.isfinite(vectors).all():
            raise Unavailable(f"{name}: vectors that are no numbers")
        largest = np.abs(vectors).max(axis=1, keepdims=True)
        vectors /= np.where(largest > 0, largest, 1)  # else squares of huge ones have no length
        lengths = np.sqrt((vectors * vectors).sum(axis=1, keepdims=True))
        return (vectors / np.where(lengths > 0, lengths, 1)).astype(np.float32)


class EndpointReasoner:
    """A `Reasoner`: a chat model behind an endpoint."""

    def __init__(self, endpoint: Endpoint, model: str) -> None:
        self._endpoint = endpoint
        self._model = model

    async def parts_of(self, question: str) -> list[str]:
        """At most `limits.REASONED_PARTS_MAX` other ways to ask; raises `Unavailable`."""
        clean = question.encode("utf-8", "ignore").decode()
        messages = [{"role": "system", "content": ASKED}, {"role": "user", "content": clean}]
        answer = await self._endpoint.post(
            "/chat/completions",
            {
                "model": self._model,
                "messages": messages,
                "max_tokens": CHAT_TOKENS_MAX,
                "temperature": 0,
            },
            _Completion,
            bytes_max=CHAT_BYTES_MAX,
        )
        if not answer.choices:
            raise Unavailable(f"{self._endpoint.name}: an answer without a choice")
        return lines_of(answer.choices[0].message.content)


def lines_of(content: str) -> list[str]:
    """The queries in a chat model's answer: its lines, without what marks them as a list."""
    lines = (line.strip().lstrip("-*•0123456789.) ").strip(' "') for line in content.splitlines())
    return [line[:PART_CHARS_MAX] for line in lines if line][: limits.REASONED_PARTS_MAX]
