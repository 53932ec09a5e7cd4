"""Generation: each token follows from the whole row before it, whatever the batch; options, ends, errors."""

from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline import Bucket, FromIds, Generation, Labels, Pad, Row, Shift, Stage, Tag, Tokenize, TokenizeWords
from pipeline.data.kinds import Ids
from pipeline.errors import CompositionError, OptionError, TextError, ValuesError
from pipeline.functional.generation.sampling import draw_numbers, draw_tokens, restrict_scores
from support.stepping import TOKENS, count_encoder_steps, make_language_model, run_whole
from support.untyped import to_list

PROMPTS = [[1, 2, 3], [4], [6, 5, 4, 3, 2, 1], [0, 0]]


def make_pipe(*, seed_stage: Any = None, **options: Any) -> Any:
    """Return a pipe of ids."""
    first: Any = FromIds() if seed_stage is None else FromIds() >> seed_stage
    return first >> Bucket(rows=3) >> Pad() >> make_language_model(**options)


def continue_by_definition(
    model: Any, prompt: list[int], number: int, count: int, seed: int, **filters: Any
) -> list[int]:
    """Draw each token from one whole pass over everything before it."""
    row = list(prompt)
    for drawn_by in draw_numbers(seed, [(number, 0)], count)[0]:
        (scores,) = run_whole(model, [row])
        row.append(int(draw_tokens(restrict_scores(scores[-1:], **filters), drawn_by.reshape(1))))
    return row[len(prompt) :]


@pytest.mark.parametrize(
    "filters", [{}, {"temperature": 0.5}, {"top_k": 3}, {"top_p": 0.7}, {"temperature": 2.0, "top_k": 5, "top_p": 0.9}]
)
@pytest.mark.parametrize("attention", ["general", None])
def test_tokens_are_those_drawn_from_whole_passes(filters: dict[str, Any], attention: str | None) -> None:
    """The same numbers and the same scores, with prompts of different lengths in a batch."""
    pipe = make_pipe(attention=attention)
    model = make_language_model(attention=attention)
    found = list(pipe.generate(PROMPTS, max_new_tokens=6, seed=3, **filters))
    wanted = [continue_by_definition(model, prompt, number, 6, 3, **filters) for number, prompt in enumerate(PROMPTS)]
    assert found == wanted


@pytest.mark.parametrize("options", [{"temperature": 0}, {"do_sample": False}, {"top_k": 1}], ids=str)
def test_greedy_tokens_are_the_most_probable(options: dict[str, Any]) -> None:
    """Three ways to say it."""
    pipe, model = make_pipe(), make_language_model()
    found = list(pipe.generate(PROMPTS, max_new_tokens=4, **options))
    for prompt, ids in zip(PROMPTS, found, strict=True):
        (scores,) = run_whole(model, [[*prompt, *ids]])
        assert to_list(scores[len(prompt) - 1 : -1].argmax(1)) == ids


@pytest.mark.parametrize("batch_size", [1, 2, 3, 100])
def test_a_continuation_does_not_depend_on_other_prompts(batch_size: int) -> None:
    """The same seed gives the same text, whatever is in the batch."""
    wanted = list(make_pipe().generate(PROMPTS, max_new_tokens=6, seed=1, eos_token_id=2))
    assert (
        list(make_pipe().generate(PROMPTS, max_new_tokens=6, seed=1, eos_token_id=2, batch_size=batch_size)) == wanted
    )
    assert next(make_pipe().generate(PROMPTS[:1], max_new_tokens=6, seed=1, eos_token_id=2)) == wanted[0]


def test_fewer_tokens_are_a_prefix_of_more() -> None:
    """With one seed."""
    short, long = (list(make_pipe().generate(PROMPTS, max_new_tokens=count, seed=4)) for count in (3, 9))
    assert short == [ids[:3] for ids in long]


def test_other_seeds_and_none_draw_other_texts() -> None:
    """None draws differently in each call."""
    runs = [list(make_pipe().generate(PROMPTS, max_new_tokens=9, seed=seed)) for seed in (1, 2, None, None)]
    assert len({str(run) for run in runs}) == 4


def test_a_row_ends_at_eos() -> None:
    """The ids leave it out; with scores it is among the tokens."""
    pipe = make_pipe()
    free = [each.ids for each in pipe.generate(PROMPTS, max_new_tokens=12, seed=0, scores=True)]
    found = list(pipe.generate(PROMPTS, max_new_tokens=12, seed=0, scores=True, eos_token_id=[2, 5]))
    assert any(each.ended for each in found)
    for ids, each in zip(free, found, strict=True):
        end = next((step for step, token in enumerate(ids) if token in {2, 5}), None)
        assert each.ids == (ids if end is None else ids[: end + 1])
        assert each.ended == (end is not None)
        assert each.output == (each.ids[:-1] if each.ended else each.ids)


def test_no_step_is_computed_twice_or_after_the_end() -> None:
    """The encoder reads each token of a prompt once, and each drawn token once but for the last of a row."""
    pipe = make_pipe()
    counted = count_encoder_steps(pipe)
    found = list(pipe.generate(PROMPTS, max_new_tokens=9, seed=0, scores=True, eos_token_id=2))
    drawn = sum(len(each.ids) - 1 for each in found)
    assert sum(counted) == sum(map(len, PROMPTS)) + drawn
    assert len(counted) == max(len(each.ids) for each in found)


def test_several_sequences_of_a_prompt_read_it_once() -> None:
    """They are drawn by different numbers; the first is the one that is drawn alone."""
    pipe = make_pipe()
    counted = count_encoder_steps(pipe)
    found = list(pipe.generate(PROMPTS, max_new_tokens=6, seed=1, num_return_sequences=3))
    assert counted[0] == sum(map(len, PROMPTS))
    assert found[::3] == list(pipe.generate(PROMPTS, max_new_tokens=6, seed=1))
    assert len({str(ids) for ids in found}) > 8


def test_log_probabilities_are_those_of_the_model() -> None:
    """At temperature 1 with all tokens, however the tokens were drawn."""
    model = make_language_model()
    found = list(make_pipe().generate(PROMPTS, max_new_tokens=5, seed=0, temperature=3.0, top_k=4, scores=True))
    for prompt, each in zip(PROMPTS, found, strict=True):
        assert isinstance(each, Generation)
        (scores,) = run_whole(model, [[*prompt, *each.ids]])
        own = scores.log_softmax(-1)[len(prompt) - 1 : -1].gather(1, torch.tensor(each.ids).unsqueeze(1))
        assert each.log_probabilities == pytest.approx(to_list(own.flatten()))
        assert each.log_probability == pytest.approx(float(own.sum()))


def test_suppressed_tokens_do_not_occur() -> None:
    """Drawn from the others."""
    found = list(make_pipe().generate(PROMPTS, max_new_tokens=20, seed=0, suppress_tokens=[1, 3]))
    assert not {token for ids in found for token in ids} & {1, 3}


class _AddOne(Stage[Row[Ids], Row[Ids]]):
    """Changes every id by itself."""

    stepwise = True

    def __call__(self, value: Row[Ids], /) -> Row[Ids]:
        return Row(Ids((value.sequence.values + 1) % TOKENS), value.target, value.row_id)


def test_a_stage_of_ones_own_changes_rows_before_the_model() -> None:
    """Of the prompt and of each drawn token."""
    found = list(make_pipe(seed_stage=_AddOne()).generate(PROMPTS, max_new_tokens=4, temperature=0))
    model = make_language_model()
    for prompt, ids in zip(PROMPTS, found, strict=True):
        (scores,) = run_whole(model, [[(token + 1) % TOKENS for token in [*prompt, *ids]]])
        assert to_list(scores[len(prompt) - 1 : -1].argmax(1)) == ids


def test_a_stage_that_declares_nothing_is_rejected_before_the_model() -> None:
    """By its number and name, in the call itself."""

    class Reverse(Stage[Row[Ids], Row[Ids]]):
        def __call__(self, value: Row[Ids], /) -> Row[Ids]:
            return Row(Ids(value.sequence.values.flip(0)), value.target, value.row_id)

    with pytest.raises(CompositionError, match=r"^stage 2 `Reverse` may change a step by others"):
        make_pipe(seed_stage=Reverse()).generate([[1]], max_new_tokens=2)


TEXTS = ["to be or not to be", "that is the question"]


def make_text_pipe(*, bos: bool = True, eos: bool = True, tokens: int | None = None, kind: str = "words") -> Any:
    """Return a pipe of texts."""
    tokenize = Tokenize.train(TEXTS, kind, bos=bos, eos=eos)
    model = make_language_model(tokens=tokens or tokenize.vocab_size)
    return tokenize >> Shift() >> Bucket(rows=3) >> Pad() >> model


def test_texts_continue_with_bos_and_without_eos() -> None:
    """The ids of the prompt are those that training sees before its eos."""
    pipe = make_text_pipe()
    tokenize = pipe.stages["tokenize"]
    ids = to_list(tokenize("to be").sequence.values)[:-1]
    of_ids = FromIds() >> Bucket(rows=3) >> Pad() >> make_language_model(tokens=tokenize.vocab_size)
    options: Any = {"max_new_tokens": 8, "seed": 2}
    (wanted,) = of_ids.generate([ids], eos_token_id=3, **options)
    assert list(pipe.generate(["to be"], **options)) == [tokenize.decode(wanted)]
    assert list(pipe.generate(["to be"], return_full_text=True, **options)) == [tokenize.decode([*ids, *wanted])]


def test_an_empty_prompt_continues_bos() -> None:
    """Texts from nothing; without bos there is nothing to continue."""
    assert len(list(make_text_pipe().generate(["", ""], max_new_tokens=3, seed=0))) == 2
    with pytest.raises(TextError, match=r"^prompt 1 has no tokens.*bos=True"):
        list(make_text_pipe(bos=False).generate(["to", ""], max_new_tokens=3))


def test_eos_ends_a_text_only_if_the_pipe_adds_it() -> None:
    """A model that has never seen eos does not end at it; None says so for any."""
    ends = [
        any(
            each.ended for each in make_text_pipe(eos=eos).generate(["to"] * 20, max_new_tokens=30, seed=0, scores=True)
        )
        for eos in (True, False)
    ]
    assert ends == [True, False]
    found = make_text_pipe().generate(["to"] * 5, max_new_tokens=30, seed=0, scores=True, eos_token_id=None)
    assert [len(each.ids) for each in found] == [30] * 5


def test_tokens_that_the_tokenizer_does_not_have_are_not_drawn() -> None:
    """A model may have room for more, whose texts do not exist."""
    pipe = make_text_pipe(tokens=200)
    found = pipe.generate(["to"], max_new_tokens=30, seed=0, scores=True)
    assert max(token for each in found for token in each.ids) < pipe.stages["tokenize"].vocab_size


def test_prompts_are_read_lazily_and_the_mode_is_the_users_between_texts() -> None:
    """One batch of prompts at a time."""
    read: list[str] = []

    def prompts() -> Any:
        for text in ("to", "be", "or", "not"):
            read.append(text)
            yield text

    pipe = make_text_pipe()
    found = pipe.generate(prompts(), max_new_tokens=2, batch_size=2, seed=0)
    assert read == []
    next(found)
    assert read == ["to", "be"]
    assert pipe.training
    assert torch.is_grad_enabled()


def test_scores_that_are_nan_name_the_prompt() -> None:
    """No token follows from them."""
    pipe = make_pipe()
    pipe.stages["embed"].weight.data[4] = torch.nan
    for options in ({"seed": 0}, {"num_beams": 2}):
        with pytest.raises(ValuesError, match=r"^the scores after prompt 1 are NaN"):
            list(pipe.generate(PROMPTS[:2], max_new_tokens=1, **options))


def test_one_text_as_prompts_is_rejected_by_the_call() -> None:
    """It is an iterable of letters."""
    with pytest.raises(TextError, match="one text"):
        make_text_pipe().generate("to be", max_new_tokens=2)


def test_pipes_that_have_no_next_token_are_rejected() -> None:
    """Rows of words, and models that end in something else."""
    words = TokenizeWords.train([["to", "be"]]) >> Bucket(rows=3) >> Pad()
    with pytest.raises(OptionError, match="reads rows of words; use Tokenize"):
        (words >> make_language_model(tokens=9)).generate([["to"]], max_new_tokens=2)
    states = make_language_model().stages
    pipe: Any = FromIds() >> Bucket(rows=3) >> Pad() >> states["embed"] >> states["encode"]
    with pytest.raises(CompositionError, match=r"ends in scores per step.*end it with NextToken"):
        list(pipe.generate([[1]], max_new_tokens=2))
    with pytest.raises(CompositionError, match="next token, got those of the classes noun, verb; call predict"):
        list((pipe >> Tag(Labels(["noun", "verb"]))).double().generate([[1]], max_new_tokens=2))


def test_a_tagger_of_ids_counts_as_a_model_of_next_tokens() -> None:
    """Any head with scores per step will do."""
    states = make_language_model().stages
    pipe: Any = FromIds() >> Bucket(rows=3) >> Pad() >> states["embed"] >> states["encode"] >> Tag(TOKENS)
    assert [len(ids) for ids in pipe.double().generate(PROMPTS, max_new_tokens=2, seed=0)] == [2] * 4


def test_tensors_are_prompts_too() -> None:
    """As in `predict`."""
    prompts: list[Tensor] = [torch.tensor(prompt) for prompt in PROMPTS]
    pipe = make_pipe()
    assert list(pipe.generate(prompts, max_new_tokens=3, seed=0)) == list(
        pipe.generate(PROMPTS, max_new_tokens=3, seed=0)
    )
