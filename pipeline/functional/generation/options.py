"""The options of `StreamChain.generate`, and their checks."""

from collections.abc import Iterable, Sequence
from typing import Final, Literal, NotRequired, Required, Self, TypedDict, cast, final

import attrs
import numpy as np
from typing_extensions import Unpack

from pipeline.checks.options import check_bool, check_int, check_number, check_optional_int, check_positive
from pipeline.errors import OptionError, UnknownOptionError
from pipeline.text import suggest_name


class GenerateOptions(TypedDict, total=False):
    """The options of `StreamChain.generate`, named as in Hugging Face.

    Attributes:
        max_new_tokens: the maximum number of tokens after the prompt, eos included.
        do_sample: draw each token at random; False takes the most probable one. By default True, unless `num_beams` is
            above 1.
        temperature: divides the scores; below 1 prefers likely tokens more. 0 is the same as `do_sample=False`.
        top_k: draw from the k most probable tokens only.
        top_p: draw from the fewest most probable tokens whose probabilities sum up to p.
        num_beams: the number of continuations that a beam search keeps; 1 for no beam search.
        length_penalty: in a beam search, the power of the length by which log-probabilities are divided. Above 0 long
            continuations are preferred more than by their probability.
        num_return_sequences: the number of continuations of each prompt; in a beam search, the best ones.
        eos_token_id: the tokens that end a continuation; None for none. By default the tokenizer's eos token, if the
            pipe ends rows with it.
        suppress_tokens: tokens that never occur in a continuation.
        seed: fixes what is drawn for each prompt, whatever the other prompts are; None draws differently in each call.
        batch_size: the number of prompts that are continued at a time.
        return_full_text: yield the prompt with its continuation, not the continuation alone.
    """

    max_new_tokens: Required[int]
    do_sample: NotRequired[bool | None]
    temperature: NotRequired[float]
    top_k: NotRequired[int | None]
    top_p: NotRequired[float | None]
    num_beams: NotRequired[int]
    length_penalty: NotRequired[float]
    num_return_sequences: NotRequired[int]
    eos_token_id: NotRequired[int | Sequence[int] | Literal["auto"] | None]
    suppress_tokens: NotRequired[Sequence[int]]
    seed: NotRequired[int | None]
    batch_size: NotRequired[int]
    return_full_text: NotRequired[bool]


# Names of options for the same purpose in other libraries, in lower case without signs.
_ALIASES: Final = {
    "maxlength": "max_new_tokens",
    "maxtokens": "max_new_tokens",
    "n": "num_return_sequences",
    "numsamples": "num_return_sequences",
    "beamsize": "num_beams",
    "badwordsids": "suppress_tokens",
    "stoptokenids": "eos_token_id",
}


@final
@attrs.frozen
class GenerateSettings:
    """Checked options of `generate`; see `GenerateOptions`."""

    max_new_tokens: int
    do_sample: bool
    temperature: float
    top_k: int | None
    top_p: float | None
    num_beams: int
    length_penalty: float
    num_return_sequences: int
    eos_token_id: frozenset[int] | None
    suppress_tokens: Sequence[int]
    seed: int
    batch_size: int
    return_full_text: bool

    @classmethod
    def of(cls, **options: Unpack[GenerateOptions]) -> Self:
        """Check the options, and fill in their defaults.

        Raises:
            OptionError: if one is out of its range, or two exclude each other.
        """
        names = list(GenerateOptions.__annotations__)
        unknown = next((name for name in options if name not in names), None)
        if unknown is not None:
            msg = f"generate has no option {unknown!r}; its options are {', '.join(names)}."
            raise UnknownOptionError(msg + suggest_name(unknown, names, _ALIASES), option=unknown)
        if "max_new_tokens" not in options:
            msg = "generate needs the maximum number of tokens; pass max_new_tokens, such as max_new_tokens=50."
            raise OptionError(msg, option="max_new_tokens")
        num_beams = check_int("num_beams", options.get("num_beams", 1), minimum=1)
        count = check_int("num_return_sequences", options.get("num_return_sequences", 1), minimum=1)
        temperature = check_number("temperature", options.get("temperature", 1.0), minimum=0)
        top_k, top_p = check_optional_int("top_k", options.get("top_k"), minimum=1), options.get("top_p")
        if top_p is not None:
            advice = "leave it out to draw from all tokens"
            check_positive("top_p", top_p, advice=advice)
            top_p = check_number("top_p", top_p, minimum=0, maximum=1, advice=advice)
        do_sample = options.get("do_sample")
        if do_sample is None:
            do_sample = num_beams == 1 and temperature > 0
        check_bool("do_sample", do_sample)
        filters = {"temperature": temperature not in {0, 1}, "top_k": top_k is not None, "top_p": top_p is not None}
        ignored = [name for name, is_given in filters.items() if is_given]
        if not do_sample and ignored:
            how = f"num_beams={num_beams}" if num_beams > 1 else "do_sample=False"
            msg = f"{ignored[0]} changes how tokens are drawn, but {how} draws none; leave one of the two out."
            raise OptionError(msg, option=ignored[0])
        if do_sample and num_beams > 1:
            msg = f"do_sample=True draws tokens, but num_beams={num_beams} searches; leave one of the two out."
            raise OptionError(msg, num_beams=num_beams)
        if not do_sample and count > num_beams:
            msg = (
                f"num_return_sequences must be at most num_beams={num_beams} without drawing, since there are no more "
                f"continuations, got {count}; raise num_beams, or draw with do_sample=True."
            )
            raise OptionError(msg, num_return_sequences=count)
        penalty = check_number("length_penalty", options.get("length_penalty", 1.0), minimum=-10, maximum=10)
        seed, full = options.get("seed"), options.get("return_full_text", False)
        check_bool("return_full_text", full)
        return cls(
            max_new_tokens=check_int("max_new_tokens", options.get("max_new_tokens"), minimum=1),
            do_sample=do_sample and temperature > 0,
            temperature=float(temperature),
            top_k=top_k,
            top_p=top_p,
            num_beams=num_beams,
            length_penalty=float(penalty),
            num_return_sequences=count,
            eos_token_id=_read_eos(options.get("eos_token_id", "auto")),
            suppress_tokens=_read_suppressed(options.get("suppress_tokens", ())),
            seed=_draw_seed() if seed is None else check_int("seed", seed, minimum=0),
            batch_size=check_int("batch_size", options.get("batch_size", 32), minimum=1),
            return_full_text=full,
        )


def _draw_seed() -> int:
    return int(np.random.default_rng().integers(2**62))


def _read_suppressed(given: object) -> list[int]:
    if isinstance(given, str) or not isinstance(given, Iterable):
        msg = f"suppress_tokens must be the ids of tokens, got {given!r:.200}; pass a list, such as [3]."
        raise OptionError(msg, suppress_tokens=given)
    return [check_int("suppress_tokens", each, minimum=0) for each in cast("Iterable[object]", given)]


def _read_eos(given: object) -> frozenset[int] | None:
    """Return the tokens that end a continuation; None for the pipe's own."""
    if given is None:
        return frozenset()
    if given == "auto":
        return None
    tokens = cast("Sequence[object]", given) if isinstance(given, list | tuple) else [given]
    return frozenset(check_int("eos_token_id", each, minimum=0) for each in tokens)
