"""Tests of `CharacterCNN` and `CharacterLSTM`."""

from collections.abc import Callable
from typing import Final, TypeAlias

import pytest
import torch
from torch import Tensor, nn

from pipeline import Embed, Ids, Nested, Pad, Row
from pipeline.data.batches import Batch, Padded
from pipeline.errors import OptionError, ShapeError, UnknownNameError, ValuesError
from pipeline.registry import registry
from pipeline.testing import STAGE_LAWS, Law
from pipeline_embeddings import CharacterCNN, CharacterLSTM
from support.untyped import as_any, to_list

Embedder: TypeAlias = CharacterCNN | CharacterLSTM

# Words of characters in sentences: a word occurs twice, one has no character, one sentence has no word.
SENTENCES: Final = [[[3, 1, 4], [1], [3, 1, 4]], [], [[], [5, 2, 6, 5, 3]]]

MAKE: Final[dict[str, Callable[[], Embedder]]] = {
    "cnn": lambda: CharacterCNN(7, embedding_dim=3, filters=4, kernel_size=3),
    "wide": lambda: CharacterCNN(7, embedding_dim=2, filters=3, kernel_size=5),
    "lstm": lambda: CharacterLSTM(7, embedding_dim=3, hidden_size=2),
    "gru": lambda: CharacterLSTM(7, embedding_dim=3, hidden_size=2, encoder="bigru"),
}


def make_batch() -> Padded[Nested[Ids]]:
    """Return the sentences as a batch."""
    rows: list[Row[Nested[Ids]]] = []
    for row, words in enumerate(SENTENCES):
        inner = torch.tensor([letter for word in words for letter in word], dtype=torch.int64)
        counts = torch.tensor([len(word) for word in words], dtype=torch.int64)
        rows.append(Row(Nested(Ids(inner), counts), row_id=row))
    return Pad(Nested[Ids])(rows)


def get_embed(embedder: Embedder) -> Embed:
    """Return the embedding of the characters."""
    (found,) = (module for module in embedder.modules() if isinstance(module, Embed))
    return found


def convolve(embedder: CharacterCNN, word: list[int]) -> Tensor:
    """Compute the vector of one word with torch's convolution."""
    (linear,) = (module for module in embedder.modules() if isinstance(module, nn.Linear))
    if not word:
        return linear.weight.new_zeros(embedder.filters)
    weight = linear.weight.reshape(embedder.filters, embedder.kernel_size, embedder.embedding_dim).transpose(1, 2)
    letters = get_embed(embedder).weight[word].t().unsqueeze(0)
    steps = nn.functional.conv1d(letters, weight, linear.bias, padding=embedder.kernel_size // 2)
    return steps.squeeze(0).amax(1)


@pytest.mark.parametrize("law", STAGE_LAWS)
@pytest.mark.parametrize("name", ["cnn", "lstm"])
def test_obeys_the_laws(name: str, law: Law[Embedder]) -> None:
    """Both embedders."""
    law(MAKE[name])


@pytest.mark.parametrize("name", ["cnn", "wide"])
def test_convolution_equals_that_of_torch_word_by_word(name: str) -> None:
    """Values and gradients, in float64."""
    embedder = MAKE[name]().double()
    assert isinstance(embedder, CharacterCNN)
    parameters = list(embedder.parameters())
    for batch in (make_batch(), make_batch().packed()):
        found = embedder(batch).padded().values
        wanted = torch.zeros_like(found)
        for row, words in enumerate(SENTENCES):
            for step, word in enumerate(words):
                wanted[row, step] = convolve(embedder, word)
        torch.testing.assert_close(found, wanted)
        weights = torch.rand_like(found)
        gradients = torch.autograd.grad((found * weights).sum(), parameters)
        torch.testing.assert_close(gradients, torch.autograd.grad((wanted * weights).sum(), parameters))


def test_recurrence_equals_that_of_torch_word_by_word() -> None:
    """The vector of a word is the last forward state and the first backward state."""
    embedder = CharacterLSTM(7, embedding_dim=3, hidden_size=2).double()
    (rnn,) = (module for module in embedder.modules() if isinstance(module, nn.LSTM))
    batch = make_batch()
    found = embedder(batch).padded().values
    wanted = torch.zeros_like(found)
    for row, words in enumerate(SENTENCES):
        for step, word in enumerate(words):
            if word:
                _, (final, _) = rnn(get_embed(embedder).weight[word].unsqueeze(1))
                wanted[row, step] = final.flatten()
    torch.testing.assert_close(found, wanted)
    parameters = list(embedder.parameters())
    weights = torch.rand_like(found)
    gradients = torch.autograd.grad((found * weights).sum(), parameters)
    torch.testing.assert_close(gradients, torch.autograd.grad((wanted * weights).sum(), parameters))


@pytest.mark.parametrize("name", MAKE)
def test_output_size_is_that_of_build(name: str) -> None:
    """In both layouts; padding and empty rows are zeros."""
    embedder, batch = MAKE[name](), make_batch()
    both: tuple[Batch[Nested[Ids]], ...] = (batch, batch.packed())
    for each in both:
        values = embedder(each).padded().values
        assert values.shape == (3, 3, embedder.build(as_any(None)).size)
        assert not values[1].any()
        assert not values[2, 2].any()
        assert torch.equal(values[0, 0], values[0, 2])


def test_batches_without_characters_give_zeros() -> None:
    """All words are empty, or there is no word."""
    for counts in ([0, 0], []):
        row = Row(Nested(Ids(torch.tensor([], dtype=torch.int64)), torch.tensor(counts, dtype=torch.int64)))
        for make in MAKE.values():
            values = make()(Pad(Nested[Ids])([row])).values
            assert values.shape[1] == len(counts)
            assert not values.any()


def test_low_precision_and_meta_device() -> None:
    """The dtype and the device are those of the weights."""
    batch = make_batch()
    for make in MAKE.values():
        embedder = make()
        wanted = embedder(batch).values
        low = make().bfloat16()
        low.load_state_dict(embedder.state_dict())
        found = low(batch).values
        assert found.dtype == torch.bfloat16
        torch.testing.assert_close(found.float(), wanted, atol=0.05, rtol=0.05)
    # On the meta device nothing is computed but shapes.
    assert MAKE["cnn"]().to("meta")(batch.to("meta")).values.shape == (3, 3, 4)


def test_dropout_is_in_training_only() -> None:
    """It drops features of embedded characters."""
    embedder, batch = CharacterCNN(7, dropout=0.5), make_batch()
    assert not torch.equal(embedder(batch).values, embedder(batch).values)
    embedder.eval()
    assert torch.equal(embedder(batch).values, embedder(batch).values)


def test_registered_by_name() -> None:
    """With their options."""
    made = registry().embedders.make("character_cnn", num_embeddings=9, filters=5)
    assert isinstance(made, CharacterCNN)
    assert made.filters == 5
    assert isinstance(registry().embedders.make("character_lstm", num_embeddings=9), CharacterLSTM)


def test_wrong_options_and_inputs_raise() -> None:
    """With the rule."""
    with pytest.raises(OptionError, match=r"kernel_size must be an odd number of 1 or more, got 4"):
        CharacterCNN(9, kernel_size=4)
    with pytest.raises(OptionError, match=r"filters must be an integer of at least 1, got 0"):
        CharacterCNN(9, filters=0)
    for stage in (CharacterCNN, CharacterLSTM):
        with pytest.raises(OptionError, match=r"dropout must be a probability, 0 <= dropout < 1, got '0.1'"):
            stage(9, dropout=as_any("0.1"))
    with pytest.raises(UnknownNameError, match=r"bilstmm"):
        CharacterLSTM(9, encoder="bilstmm")
    with pytest.raises(ShapeError, match=r"must be Nested"):
        CharacterCNN(9)(as_any(Padded(Ids, torch.tensor([[1]]), torch.tensor([1]))))
    with pytest.raises(ValuesError, match=r"in the inner row at step 1 of row 2, .* id 6, but Embed has ids 0 to 5"):
        CharacterCNN(6)(make_batch())
    assert to_list(make_batch().lengths) == [3, 0, 2]
