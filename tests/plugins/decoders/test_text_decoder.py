"""Tests of all decoders: equal to plain torch row by row, and what is generated."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from pipeline import (
    Bucket,
    Classify,
    Decoded,
    Embed,
    Encode,
    Example,
    Heads,
    Labels,
    ModuleStage,
    Pack,
    Pad,
    Pool,
    States,
    StreamChain,
    Texts,
    Tokenize,
    load,
)
from pipeline.errors import CompositionError, OptionError, PipelineError, ShapeError, TargetError
from pipeline.testing import check_head
from pipeline_decoders import RecurrentDecoder, TransformerDecoder
from pipeline_decoders.transformer_layers import DecoderLayer, HeadsAttention, encode_positions
from support.decoding import (
    KINDS,
    LENGTHS,
    SIZE,
    TARGET,
    AnyDecoder,
    list_target_ids,
    make_decoder,
    make_examples,
    make_states,
)
from support.untyped import as_any, seed, to_list

BOS, EOS = TARGET.first_ids[0], TARGET.last_ids[0]


def attend(decoder: RecurrentDecoder, query: Tensor, keys: Tensor) -> Tensor:
    """Return the context of a query, in plain torch."""
    if not len(keys):
        return torch.zeros_like(query)
    if decoder.attention_name == "general":
        layer = as_any(decoder.attention).linear
        scores = keys @ (layer.weight @ query + layer.bias)
    else:
        assert decoder.attention is not None
        scores = decoder.attention.score(query[None, None], keys[None])[0, 0]
    context: Tensor = scores.softmax(0) @ keys
    return context


def score_recurrent(decoder: RecurrentDecoder, source: Tensor, final: Tensor, ids: list[int]) -> Tensor:
    """Return the scores after each input of one row, by a loop over its steps with torch's own LSTM or GRU."""
    make = nn.LSTM if decoder.cell == "lstm" else nn.GRU
    size = decoder.embedding_size + decoder.hidden_size * decoder.input_feeding
    cell = make(size, decoder.hidden_size, decoder.num_layers).double()
    cell.load_state_dict(as_any(decoder.encoder).rnn.state_dict())
    for ours, theirs in zip(as_any(decoder.encoder).rnn.parameters(), cell.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert decoder.initial is not None
    parts = torch.tanh(decoder.initial(final)).reshape(-1, decoder.num_layers, decoder.hidden_size)
    carry = tuple(parts) if decoder.cell == "lstm" else parts[0]
    fed = torch.zeros(decoder.hidden_size, dtype=torch.float64)
    keys = source[:, :0] if decoder.bridge is None else decoder.bridge(source)
    found: list[Tensor] = []
    for token in ids:
        vector = decoder.embed.weight[token]
        given = torch.cat([vector, fed]) if decoder.input_feeding else vector
        with torch.no_grad():
            output, carry = cell(given[None], carry)
        hidden = output[0]
        if decoder.combine is not None:
            hidden = torch.tanh(decoder.combine.weight @ torch.cat([attend(decoder, hidden, keys), hidden]))
        fed = hidden
        found.append(decoder.linear(hidden))
    return torch.stack(found)


def copy_attention(ours: HeadsAttention, theirs: nn.MultiheadAttention) -> None:
    """Copy the weights of an attention into torch's."""
    layers = (ours.query, ours.key, ours.value)
    if as_any(theirs.in_proj_weight) is None:
        for layer, weight in zip(
            layers, (theirs.q_proj_weight, theirs.k_proj_weight, theirs.v_proj_weight), strict=True
        ):
            as_any(weight).data.copy_(layer.weight)
    else:
        theirs.in_proj_weight.data.copy_(torch.cat([layer.weight for layer in layers]))
    theirs.in_proj_bias.data.copy_(torch.cat([layer.bias for layer in layers]))
    theirs.out_proj.load_state_dict(ours.output.state_dict())


def score_transformer(decoder: TransformerDecoder, source: Tensor, ids: list[int]) -> Tensor:
    """Return the scores after each input of one row, by `nn.TransformerDecoder` with the same weights."""
    size = decoder.hidden_size
    activation = nn.functional.gelu if decoder.activation == "gelu" else nn.functional.relu
    places = torch.arange(len(ids))
    positions = encode_positions(places, size, torch.float64) if decoder.places is None else decoder.places(places)
    steps = (decoder.embed.weight[ids] * size**0.5 + positions)[None]
    for layer in decoder.layers:
        assert isinstance(layer, DecoderLayer)
        theirs = nn.TransformerDecoderLayer(
            size,
            decoder.num_heads,
            decoder.feedforward_size,
            dropout=0.0,
            activation=activation,
            batch_first=True,
            norm_first=decoder.norm_first,
        ).double()
        theirs.multihead_attn = nn.MultiheadAttention(
            size, decoder.num_heads, kdim=SIZE, vdim=SIZE, batch_first=True
        ).double()
        copy_attention(layer.self_attention, theirs.self_attn)
        copy_attention(layer.cross_attention, theirs.multihead_attn)
        theirs.linear1.load_state_dict(layer.inner.state_dict())
        theirs.linear2.load_state_dict(layer.outer.state_dict())
        for own, other in zip(layer.norms, (theirs.norm1, theirs.norm2, theirs.norm3), strict=True):
            other.load_state_dict(own.state_dict())
        theirs.eval()
        mask = nn.Transformer.generate_square_subsequent_mask(len(ids), dtype=torch.float64)
        steps = theirs(steps, source[None], tgt_mask=mask, tgt_is_causal=True)
    scores: Tensor = decoder.linear(steps if decoder.norm is None else decoder.norm(steps))
    return scores[0]


def score_row(decoder: AnyDecoder, states: States, row: int, ids: list[int]) -> Tensor:
    """Return the scores after each input of one row, in plain torch."""
    source = states.padded().values[row, : int(states.lengths[row])]
    if isinstance(decoder, RecurrentDecoder):
        return score_recurrent(decoder, source, states.final[row], ids)
    return score_transformer(decoder, source, ids)


def run(decoder: AnyDecoder, states: States) -> Decoded[str]:
    """Return the output of a decoder, with gradients."""
    return decoder(states)


def list_generated(output: Decoded[str]) -> dict[int, list[list[int]]]:
    """Return the ids of the generated texts by row id."""
    return {row: [list(each.ids) for each in found] for row, found in output.scored_rows()}


def can_be_compared(kind: str, row: int) -> bool:
    """Return whether plain torch has an answer: its transformer fails for a source without steps."""
    return kind not in {"transformer", "post_norm", "learned"} or LENGTHS[row] > 0


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_scores_of_targets_equal_a_loop_over_rows(kind: str, packed: bool) -> None:
    """Each token given those before it; NaN in the padding has no effect; eos is a target too."""
    decoder, states = make_decoder(kind), make_states(extra=2, packed=packed)
    scores = run(decoder, states).get_scores()
    assert to_list(scores.lengths) == [4, 2, 0, 6]
    found = torch.split(scores.values.index_select(0, scores.order.reading_order), [4, 2, 0, 6])
    losses: list[Tensor] = []
    for row, ids in enumerate(list_target_ids(states)):
        if ids and can_be_compared(kind, row):
            wanted = score_row(decoder, states, row, [BOS, *ids[:-1]])
            assert_close(found[row], wanted)
        if ids:
            losses.append(-found[row].log_softmax(1)[torch.arange(len(ids)), ids])
    assert_close(scores.loss(), torch.cat(losses).mean())


@pytest.mark.parametrize("kind", KINDS)
def test_steps_equal_whole_targets(kind: str) -> None:
    """With what is remembered of earlier tokens, each step has the scores of the whole target at its place."""
    decoder, states = make_decoder(kind), make_states(targets=("a b c d",) * 4)
    scores = run(decoder, states).get_scores()
    whole = scores.values.index_select(0, scores.order.reading_order).reshape(4, 5, -1)
    memory = decoder.read_source(states)
    ids = list_target_ids(states)[0]
    for place, token in enumerate([BOS, *ids[:-1]]):
        found, memory = as_any(decoder).step(torch.full((4,), token), memory)
        assert_close(found, whole[:, place])


@pytest.mark.parametrize("kind", KINDS)
def test_a_memory_restored_from_its_tensors_gives_the_same_scores(kind: str) -> None:
    """They have the axes that are stated: "batch" where the rows are, and sizes that do not change where there is no name."""
    decoder: Any = make_decoder(kind)
    axes = {**decoder.source_axes, **decoder.state_axes}
    one, other = (decoder.read_source(make_states((2, 4)[:rows], None)) for rows in (2, 1))
    memory = one
    for token in (BOS, 4, 5):
        tokens = torch.full((2,), token)
        flat = decoder.flatten_memory(memory)
        restored = decoder.restore_memory({name: flat[name] for name in axes})
        wanted, memory = decoder.step(tokens, memory)
        assert_close(decoder.step(tokens, restored)[0], wanted, rtol=0, atol=0)
    flat, first, single = map(decoder.flatten_memory, (memory, one, other))
    for name, each in axes.items():
        assert flat[name].shape[each.index("batch")] == 2
        shorter = [axis for axis, size in enumerate(single[name].shape) if size != flat[name].shape[axis]]
        assert {"" if axis >= len(each) else each[axis] for axis in shorter} <= {"batch", "time", "past"}
        assert name in decoder.state_axes or torch.equal(flat[name], first[name])


@pytest.mark.parametrize("kind", KINDS)
def test_the_greedy_text_equals_a_loop(kind: str) -> None:
    """The best token each time, from scores of the whole text so far in plain torch, until eos or the maximum."""
    decoder, states = make_decoder(kind), make_states()
    for row, found in list_generated(run(decoder, states)).items():
        if not can_be_compared(kind, row):
            continue
        ids = [BOS]
        while len(ids) <= 8 and ids[-1] != EOS:
            scores = score_row(decoder, states, row, ids)[-1]
            scores[[BOS, 0]] = -torch.inf
            ids.append(int(scores.argmax()))
        assert found == [ids[1:]]


@pytest.mark.parametrize("search", [{}, {"num_beams": 3}, {"do_sample": True, "top_k": 5, "temperature": 1.5}])
@pytest.mark.parametrize("kind", KINDS)
def test_a_text_depends_on_its_row_only(kind: str, search: dict[str, float]) -> None:
    """Alone, in another order, and in wider batches, packed or padded."""
    decoder = make_decoder(kind)
    decoder.set_search(**as_any(search))
    together = list_generated(run(decoder, make_states()))
    assert len({str(each) for each in together.values()}) > 1
    for row, length in enumerate(LENGTHS):
        alone = make_states((length,), None, rows=[row], extra=3, packed=row % 2 == 0)
        assert list_generated(run(decoder, alone)) == {row: together[row]}
    reversed_rows = make_states(LENGTHS[::-1], None, rows=[3, 2, 1, 0])
    assert list_generated(run(decoder, reversed_rows)) == together


@pytest.mark.parametrize("kind", ["lstm", "transformer"])
def test_a_beam_search_returns_the_best_texts_first(kind: str) -> None:
    """Different ones, at least as good as the greedy text, whose log-probabilities are those of the scores."""
    decoder = make_decoder(kind)
    greedy = dict(run(decoder, make_states()).scored_rows())
    decoder.set_search(num_beams=4, num_return_sequences=3, length_penalty=0.0)
    for row, found in run(decoder, make_states()).scored_rows():
        totals = [each.log_probability for each in found]
        assert len({tuple(each.ids) for each in found}) == 3
        assert totals == sorted(totals, reverse=True)
        assert totals[0] >= greedy[row][0].log_probability - 1e-9


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_reach_all_weights_and_the_source(kind: str) -> None:
    """And no padding, whose NaN would show."""
    decoder = make_decoder(kind).train()
    states = make_states()
    values = states.steps.values.clone().requires_grad_()
    final = states.final.clone().requires_grad_()
    leaf = States(as_any(states.steps).with_values(values), final)
    torch.autograd.backward(run(decoder, leaf).loss())
    for name, weight in decoder.named_parameters():
        assert weight.grad is not None, name
        assert bool(weight.grad.isfinite().all()), name
    # A decoder without attention reads only the final state, a transformer only the steps.
    assert (values.grad is not None) == (kind != "plain")
    assert (final.grad is not None) == (kind not in {"transformer", "post_norm", "learned"})
    if values.grad is not None:
        is_padding = torch.arange(5) >= torch.tensor(LENGTHS).unsqueeze(1)
        assert bool(values.grad.isfinite().all())
        assert bool(values.grad.any())
        assert not bool(values.grad[is_padding].any())


@pytest.mark.parametrize("kind", ["lstm", "fed", "transformer"])
def test_gradients_are_those_of_finite_differences(kind: str) -> None:
    """Of the loss with respect to the steps of the source."""
    decoder = make_decoder(kind).train()
    states = make_states((2, 1), ("a b", "c"))

    def compute(values: Tensor) -> Tensor:
        filled = values.masked_fill((torch.arange(2) >= states.lengths.unsqueeze(1)).unsqueeze(2), 0)
        return run(decoder, States(as_any(states.steps).with_values(filled), states.final)).loss()

    values = states.padded().values.clone().requires_grad_()
    assert torch.autograd.gradcheck(compute, (values,))


@pytest.mark.parametrize("kind", KINDS)
def test_batches_without_steps_are_legal(kind: str) -> None:
    """Rows without a step, and targets that are all missing."""
    decoder = make_decoder(kind)
    output = run(decoder, make_states((0, 0), (None, None)))
    assert len(list(output.rows())) == 2
    assert output.loss().item() == 0
    torch.autograd.backward(output.loss())


@pytest.mark.parametrize("kind", ["lstm", "transformer"])
def test_runs_in_bfloat16(kind: str) -> None:
    """Weights and states."""
    decoder, states = make_decoder(kind).bfloat16(), make_states()
    steps = as_any(states.steps).with_values(states.steps.values.bfloat16())
    output = run(decoder, States(steps, states.final.bfloat16()))
    assert output.get_scores().values.dtype == torch.bfloat16
    assert bool(output.loss().isfinite())


def test_a_text_is_the_answer_and_the_output_keeps_its_rows() -> None:
    """Without special tokens."""
    decoder = make_decoder("lstm")
    output = run(decoder, make_states())
    for row, text in output.rows():
        ids = [each for each in list_generated(output)[row][0] if each != EOS]
        assert text == TARGET.decode(ids)


def test_nothing_is_generated_in_training() -> None:
    """It would take far longer than the step itself."""
    output = run(make_decoder("lstm").train(), make_states())
    assert output.generated is None
    with pytest.raises(CompositionError, match="in training mode"):
        list(output.rows())


def test_a_loss_without_texts_raises() -> None:
    """The message says how to state the targets."""
    with pytest.raises(TargetError, match="Texts"):
        run(make_decoder("lstm"), make_states(targets=None)).loss()


def test_label_smoothing_changes_the_loss() -> None:
    """As that of other heads."""
    output = run(make_decoder("lstm"), make_states())
    scores = output.get_scores()
    targets = scores.packed_targets
    assert targets is not None
    wanted = nn.functional.cross_entropy(scores.values, targets, label_smoothing=0.1)
    assert_close(output.loss(label_smoothing=0.1), wanted)


@pytest.mark.parametrize(
    ("search", "message"),
    [({"num_beams": 0}, "num_beams"), ({"top_p": 0.5}, "draws none"), ({"eos_token_id": 2}, "no option")],
)
def test_rejects_wrong_options_of_a_search(search: dict[str, float], message: str) -> None:
    """When they are given, and the decoder stays as it is."""
    decoder = make_decoder("lstm")
    with pytest.raises(PipelineError, match=message):
        decoder.set_search(**as_any(search))
    assert decoder.search == {"max_new_tokens": 8, "do_sample": False, "seed": 0}


def test_rejects_a_tokenizer_without_bos_or_eos() -> None:
    """The decoder would not know where to start, or to stop."""
    for options in ({"bos": True}, {"eos": True}, {}):
        with pytest.raises(OptionError, match="bos=True, eos=True"):
            RecurrentDecoder(Tokenize.train(["a"], **as_any(options)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_heads": 3}, "must divide"),
        ({"num_layers": 0}, "num_layers must be an integer of at least 1"),
        ({"positions": "none"}, "positions must be"),
        ({"dropout": 1.0}, "dropout"),
        (
            {"positions": "learned", "max_positions": 9, "search": {"max_new_tokens": 10}},
            "max_new_tokens must be at most",
        ),
    ],
)
def test_a_transformer_rejects_wrong_options(options: dict[str, object], message: str) -> None:
    """Naming the option."""
    with pytest.raises(OptionError, match=message):
        TransformerDecoder(TARGET, **as_any({"hidden_size": 8, **options}))


def test_generated_texts_have_a_position_for_each_token_by_default() -> None:
    """Few learned positions limit the length."""
    decoder = TransformerDecoder(TARGET, hidden_size=8, positions="learned", max_positions=9)
    assert decoder.settings.max_new_tokens == 9
    assert TransformerDecoder(TARGET, hidden_size=8, max_positions=9).settings.max_new_tokens == 100


def test_a_later_search_keeps_to_the_learned_positions() -> None:
    """An exported model has no check of its own."""
    decoder = make_decoder("learned")
    with pytest.raises(OptionError, match="max_new_tokens must be at most max_positions=12 with learned positions"):
        decoder.set_search(max_new_tokens=13)
    assert (decoder.settings.max_new_tokens, decoder.search.get("max_new_tokens")) == (8, 8)


def test_a_target_longer_than_the_learned_positions_raises() -> None:
    """Before the embedding does."""
    decoder = make_decoder("learned")
    with pytest.raises(ShapeError, match="max_positions=12"):
        run(decoder, make_states((1,), ("a " * 12,)))


@pytest.mark.parametrize("decoder", [RecurrentDecoder, TransformerDecoder])
def test_values_of_another_type_are_rejected(decoder: type) -> None:
    """With one form of message."""
    sizes: list[object] = ["4", 2.5, math.nan, True, 0, -1]
    bools: list[object] = ["no", 1, None]
    options = {"hidden_size": [*sizes, None], "num_layers": [*sizes, None], "input_size": sizes, "dropout": ["0.1", 1]}
    if decoder is RecurrentDecoder:
        options |= {"embedding_size": [*sizes, None], "input_feeding": bools, "attention": [3], "cell": [3]}
    else:
        options |= {"num_heads": [*sizes, None], "feedforward_size": sizes, "max_positions": [*sizes, None]}
        options |= {"norm_first": bools, "tied": bools, "activation": [None], "positions": [3]}
    for option, values in options.items():
        for value in values:
            with pytest.raises(OptionError, match=f"^{option} must be .*, got {value!r}"):
                as_any(decoder)(TARGET, **{"hidden_size": 8, option: value})


@pytest.mark.parametrize("cell", ["lstm2", "bilstm"])
def test_a_recurrent_decoder_rejects_other_cells(cell: str) -> None:
    """A decoder cannot read from the end."""
    with pytest.raises(OptionError, match="cell must be one of lstm, gru"):
        RecurrentDecoder(TARGET, cell=as_any(cell))


@pytest.mark.parametrize("kind", ["lstm", "transformer"])
def test_obeys_the_laws_of_heads(kind: str) -> None:
    """Metadata, padding, batchmates, empty rows, missing targets, pickling, and its options."""
    check_head(lambda: as_any(make_decoder(kind)))


def make_pipe(kind: str) -> StreamChain[str | Example[str], Decoded[str]]:
    """Return a pipe that learns to reverse letters."""
    source = Tokenize.train(["a b c d"])
    seed(0)
    head: ModuleStage[States, Decoded[str]] = RecurrentDecoder(TARGET, embedding_size=16, hidden_size=48)
    if kind == "transformer":
        head = TransformerDecoder(TARGET, hidden_size=32, num_layers=1, num_heads=2, search={"max_new_tokens": 8})
    model = Pack() >> Embed(source.vocab_size, 16) >> Encode("bigru", hidden_size=24) >> head
    return source >> Bucket(rows=16) >> Pad(targets=Texts(TARGET)) >> model


@pytest.mark.parametrize("kind", ["recurrent", "transformer"])
def test_learns_to_reverse_letters(kind: str) -> None:
    """More than 95 of 100 texts are exactly right; metrics are those of texts."""
    pipe = make_pipe(kind)
    history = pipe.fit(make_examples(800), epochs=8, learning_rate=0.01, schedule="cosine", progress=False)
    evaluation = pipe.evaluate(make_examples(100, start=1))
    assert [*evaluation.metrics] == ["perplexity", "accuracy", "exact_match"]
    assert evaluation.metrics["exact_match"] > 0.95
    assert list(pipe.predict(["a b d", "c"])) == ["d b a", "c"]
    assert len(history) == 8


@pytest.mark.parametrize("kind", ["recurrent", "transformer"])
def test_saves_and_loads_to_the_last_bit(kind: str, tmp_path: Path) -> None:
    """With the tokenizer of the targets, and the options of the search."""
    pipe = make_pipe(kind)
    head = pipe.stages[f"{kind}_decoder"]
    assert isinstance(head, RecurrentDecoder | TransformerDecoder)
    head.set_search(num_beams=2, seed=2**40)
    pipe.save(tmp_path / "pipe")
    loaded = load(tmp_path / "pipe", takes=str, gives=str)
    texts = [example.input for example in make_examples(20)]
    found = zip(loaded.predict(texts, scores=True), pipe.predict(texts, scores=True), strict=True)
    for one, other in found:
        assert as_any(one)[0].ids == other[0].ids
        assert as_any(one)[0].log_probabilities == other[0].log_probabilities
    assert loaded.evaluate(make_examples(20)).loss == pipe.evaluate(make_examples(20)).loss


def test_a_pipe_for_inference_generates_the_same_texts() -> None:
    """But does not promise equal bits in every batch."""
    pipe = make_pipe("recurrent")
    texts = [example.input for example in make_examples(10)]
    fast = pipe.for_inference(examples=texts)
    assert list(fast.predict(texts)) == list(pipe.predict(texts))
    assert fast.inference_report is not None
    assert fast.inference_report.changed == 0
    with pytest.raises(OptionError, match="deterministic=True is not possible with RecurrentDecoder"):
        pipe.for_inference(deterministic=True)


def test_several_heads_have_a_decoder_among_them() -> None:
    """With targets by name."""
    source, labels = Tokenize.train(["a b c d"]), Labels(["a", "b", "c", "d"])
    decoder = RecurrentDecoder(TARGET, embedding_size=4, hidden_size=4, name="text", search={"max_new_tokens": 3})
    heads = Heads(decoder, Pool("max") >> Classify(labels, name="first"))
    states = Pack() >> Embed(source.vocab_size, 4) >> Encode("gru", hidden_size=4)
    pad = Pad(targets={"text": Texts(TARGET), "first": labels})
    pipe = source >> Bucket(rows=8) >> pad >> states >> heads
    examples = [
        Example(each.input, target={"text": str(each.target), "first": each.input[0]}) for each in make_examples(16)
    ]
    history = pipe.fit(examples, valid=examples, epochs=1, progress=False)
    assert [*history.best.metrics][:3] == ["text.perplexity", "text.accuracy", "text.exact_match"]
    ((text, first),) = pipe.predict(["a b"])
    assert isinstance(text, str)
    assert first in labels.names


def test_pad_and_decoder_have_one_tokenizer_of_targets() -> None:
    """With another one of the same size, texts would have other tokens, in silence."""
    other = Tokenize.train(["z y x w v"], bos=True, eos=True)
    decoder = RecurrentDecoder(TARGET, embedding_size=4, hidden_size=4, name="text", input_size=4)
    source = Pack() >> Embed(9, 4) >> Encode("gru", hidden_size=4)
    with pytest.raises(
        CompositionError, match="`Pad` and stage 5 `RecurrentDecoder` must have the same tokenizer of t"
    ):
        _ = Pad(targets=Texts(other)) >> source >> decoder
    heads = Heads(decoder, Pool("max") >> Classify(2, name="first"))
    with pytest.raises(CompositionError, match="must have the same tokenizer of target 'text', but their vocabularies"):
        _ = Pad(targets={"text": Texts(other), "first": Labels(["a", "b"])}) >> source >> heads
    _ = Pad(targets=Texts(TARGET)) >> source >> decoder


def test_generate_names_predict_instead() -> None:
    """It continues texts; a decoder makes others of them."""
    with pytest.raises(CompositionError, match="because it generates a text of each source by itself; call predict"):
        list(as_any(make_pipe("recurrent")).generate(["a b"], max_new_tokens=3))


@pytest.mark.parametrize("search", ["beam", "", 4, ["num_beams"], {4: "num_beams"}])
def test_options_of_a_search_that_are_no_mapping_are_an_error(search: object) -> None:
    """Which shows how to write them."""
    message = "^search must be a mapping of options, got .*; pass them by name, such as {'num_beams': 4}"
    with pytest.raises(OptionError, match=message):
        RecurrentDecoder(TARGET, embedding_size=2, hidden_size=2, search=as_any(search))
    with pytest.raises(OptionError, match=message):
        TransformerDecoder(TARGET, hidden_size=2, num_heads=1, search=as_any(search))
