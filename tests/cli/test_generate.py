"""Test `python -m pipeline generate`: the texts are those of the saved pipe in Python."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline import Bucket, FromIds, Pad, Shift, language_model
from pipeline.__main__ import main
from pipeline.data.generation import Generation
from support.commands import make_classifier, make_writer
from support.untyped import as_any


@pytest.fixture
def folder(tmp_path: Path) -> str:
    """Return the folder of a saved language model."""
    make_writer().save(tmp_path / "model")
    return str(tmp_path / "model")


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[str]:
    """Return the lines that the command prints."""
    assert main(["generate", *arguments]) == 0
    return capsys.readouterr().out.splitlines()


def test_prompts_are_continued_one_per_line(folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    """In their order; options may stand between them."""
    options: dict[str, Any] = {"max_new_tokens": 6, "seed": 3, "top_k": 5}
    wanted = list(as_any(make_writer()).generate(["a fine", "so"], **options))
    found = run(capsys, folder, "a fine", "--max-new-tokens", "6", "--seed", "3", "so", "--top-k", "5")
    assert found == wanted
    assert found[0] != found[1]


def test_without_a_prompt_a_text_is_written_from_its_beginning(folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    """As from an empty prompt."""
    wanted = list(as_any(make_writer()).generate([""], max_new_tokens=50, seed=1))
    assert run(capsys, folder, "--seed", "1") == wanted


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0.0},
        {"temperature": 0.5, "seed": 4},
        {"top_p": 0.5, "seed": 4},
        {"num_return_sequences": 2, "seed": 4, "batch_size": 1},
        {"num_beams": 3, "num_return_sequences": 2},
    ],
)
def test_options_are_those_of_generate(
    folder: str, capsys: pytest.CaptureFixture[str], options: dict[str, Any]
) -> None:
    """By their names there."""
    given = [text for name, value in options.items() for text in (f"--{name.replace('_', '-')}", str(value))]
    wanted = list(as_any(make_writer()).generate(["a", "so"], max_new_tokens=7, return_full_text=True, **options))
    assert run(capsys, folder, "a", "so", "--max-new-tokens", "7", "--return-full-text", *given) == wanted


def test_json_has_the_prompt_and_the_probability(folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Of each continuation a line."""
    options: dict[str, Any] = {"max_new_tokens": 4, "num_return_sequences": 2, "seed": 0}
    wanted = list(as_any(make_writer()).generate(["a", "so"], scores=True, **options))
    command = [folder, "a", "so", "--json", "--max-new-tokens", "4", "--num-return-sequences", "2", "--seed", "0"]
    assert [json.loads(line) for line in run(capsys, *command)] == [
        {"prompt": prompt, "text": each.output, "log_probability": each.log_probability, "ended": each.ended}
        for prompt, each in zip(["a", "a", "so", "so"], wanted, strict=True)
    ]


def test_a_text_is_one_line(folder: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Without control characters of the terminal; JSON keeps the text."""
    text = "two\nlines \x1b[31m"

    def generate(*_: object, **__: object) -> Iterator[Generation[str]]:
        yield Generation(text, [1], [-0.5], ended=True)

    monkeypatch.setattr("pipeline.core.stream_chain.StreamChain.generate", generate)
    assert run(capsys, folder) == ["two\\nlines \\x1b[31m"]
    assert json.loads(run(capsys, folder, "--json")[0])["text"] == text


def make_writer_of_ids() -> Any:
    """Return a language model whose pipe takes ids."""
    model = language_model(9, embedding_dim=4, hidden_size=4)
    return FromIds() >> Shift() >> Bucket(rows=3) >> Pad() >> model


@pytest.mark.parametrize(
    ("make", "arguments", "message"),
    [
        (make_writer, ["--top-p", "2"], "--top-p must be a number from 0 to 1, got 2.0"),
        (make_writer, ["--max-new-tokens", "0"], "--max-new-tokens must be an integer of at least 1, got 0"),
        (make_writer, ["--device", "quantum"], "--device must be a device of torch, got 'quantum'"),
        (make_classifier, ["a"], "but this pipe ends in Classify; write predictions for a file with python -m"),
        (
            make_writer,
            ["--num-return-sequences", "2", "--num-beams", "1", "--temperature", "0"],
            "raise --num-beams, or",
        ),
        (make_writer_of_ids, ["3"], "continues texts with a language model, but this pipe begins with FromIds"),
    ],
)
def test_what_cannot_generate_is_reported_on_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], make: Any, arguments: list[str], message: str
) -> None:
    """With the status 1."""
    make().save(tmp_path / "model")
    assert main(["generate", str(tmp_path / "model"), *arguments]) == 1
    found = capsys.readouterr()
    assert message in found.err
    assert (found.out, found.err.count("\n")) == ("", 1)


def test_a_wrong_option_is_no_prompt(folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Nor is its value."""
    with pytest.raises(SystemExit) as left:
        main(["generate", folder, "a", "--topk", "3"])
    assert left.value.code == 2
    assert "unrecognized arguments: --topk 3; python -m pipeline generate --help" in capsys.readouterr().err
