"""The built-in model, read from the installed wheel."""

from __future__ import annotations

import json
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from memsync.adapters.models import static
from memsync.errors import ConfigurationError

TOKENIZER = json.dumps(
    {
        "version": "1.0",
        "added_tokens": [],
        "pre_tokenizer": {"type": "Whitespace"},
        "model": {"type": "WordLevel", "vocab": {"?": 0, "up": 1, "down": 2}, "unk_token": "?"},
    }
).encode()


def safetensors(path: Path, table: NDArray[np.float16]) -> Path:
    """A file as the format says: length of the header, header, data."""
    entry = {"dtype": "F16", "shape": list(table.shape), "data_offsets": [0, table.nbytes]}
    header = json.dumps({static.TABLE: entry}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + table.tobytes())
    return path


@pytest.fixture(scope="module")
def model() -> static.StaticModel:
    try:
        metadata.distribution(static.DISTRIBUTION)
    except metadata.PackageNotFoundError:
        pytest.skip("there is no wordllama wheel for this platform")
    return static.load()


async def test_vectors_have_length_one(model: static.StaticModel) -> None:
    vectors = await model.embed(["a short text", "猫が好き", "x" * 9_000])
    assert vectors.shape == (3, model.dimensions)
    assert vectors.dtype == np.float32
    assert np.linalg.norm(vectors, axis=1) == pytest.approx([1.0] * 3, abs=1e-5)


async def test_what_means_the_same_is_near(model: static.StaticModel) -> None:
    cat, kitten, tax = await model.embed(["my cat sleeps", "the kitten naps", "income tax forms"])
    assert cat @ kitten > cat @ tax + 0.1


TRICKY = [
    "", " ", "  ", "a", " a", "a ", "  a   b  c", "a\nb c\t d", "<s> a </s>b <unk> c", "< s>",
    "\u2581a \u2581 b", "don't stop, e.g. at 3.14 %!", "日本語 と 英語", "🙂 🙂🙂 x",
    "\u00a0a \u3000b",
    "x" * 100 + " y", "a" + " " * 40 + "b", "\x00 \x01", "ｆｕｌｌ ｗｉｄｔｈ", "e\u0301 é",
]  # fmt: skip


@pytest.mark.parametrize("text", TRICKY)
def test_tokens_word_by_word_are_those_of_the_whole_text(
    model: static.StaticModel, text: str
) -> None:
    whole = model._tokenizer.encode(text, add_special_tokens=False).ids
    assert model._tokens_of(text) == whole
    assert model._tokens_of(text) == whole  # remembered


@given(st.text(st.sampled_from("ab  é日<s>/\u2581\n.'") | st.characters(codec="utf-8")))
def test_any_tokens_word_by_word_are_those_of_the_whole_text(
    model: static.StaticModel, text: str
) -> None:
    assert model._tokens_of(text) == model._tokenizer.encode(text, add_special_tokens=False).ids


def test_no_token_has_a_space_behind_another_character(model: static.StaticModel) -> None:
    tokens = model._tokenizer.get_vocab()
    assert len(tokens) > 30_000
    assert not [token for token in tokens if "\u2581" in token.lstrip("\u2581")]


async def test_an_empty_text_is_a_row_of_zeros(model: static.StaticModel) -> None:
    vectors = await model.embed(["", "tea"])
    assert not vectors[0].any()
    assert vectors[1].any()


async def test_no_texts_are_no_rows(model: static.StaticModel) -> None:
    assert (await model.embed([])).shape == (0, model.dimensions)


async def test_only_the_first_bytes_count(model: static.StaticModel) -> None:
    start = "tea and cake " * 700
    vectors = await model.embed([start[: static.BYTES_MAX], start[: static.BYTES_MAX] + " violin"])
    assert np.array_equal(vectors[0], vectors[1])


async def test_what_is_cut_or_cannot_be_encoded_is_no_error(model: static.StaticModel) -> None:
    cut, lone = await model.embed(["猫" * 8_000, "tea \ud800"])
    assert cut.any()
    assert lone.any()


async def test_a_vector_is_the_mean_of_its_tokens(tmp_path: Path) -> None:
    table = np.array([[0, 0], [0, 3], [4, 0]], np.float16)
    mapped = static.map_table(safetensors(tmp_path / "w", table))
    assert np.array_equal(mapped, table)
    tiny = static.StaticModel(mapped, TOKENIZER)
    vectors = await tiny.embed(["up", "up down", "unheard", "down down"])
    assert vectors.tolist() == [
        pytest.approx([0, 1]), pytest.approx([0.8, 0.6]), [0, 0], pytest.approx([1, 0])
    ]  # fmt: skip


@pytest.mark.parametrize(
    "content", [b"", b"\xff" * 40, (2).to_bytes(8, "little") + b"{}", (4).to_bytes(8, "little")]
)
def test_another_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "w"
    path.write_bytes(content)
    with pytest.raises((ValueError, KeyError)):
        static.map_table(path)


def test_a_missing_wheel_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(static, "DISTRIBUTION", "no-such-distribution")
    with pytest.raises(ConfigurationError, match=r"no-such-distribution wheel is not installed"):
        static.load()


def test_a_wheel_without_the_model_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(static, "DISTRIBUTION", "numpy")
    monkeypatch.setattr(static, "WEIGHTS_FILE", "numpy/no-such-file")
    with pytest.raises(ConfigurationError, match="does not hold the model"):
        static.load()
