"""The model card of a saved pipe: README.md, in plain Markdown."""

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from pipeline.core.stage import StageBase
from pipeline.saving.manifest import SavedPlugin
from pipeline.text import escape_control_characters


def format_card(
    stages: Mapping[str, StageBase],
    *,
    name: str,
    takes: Sequence[str],
    gives: str,
    versions: Mapping[str, str],
    plugins: Sequence[SavedPlugin],
    results: Mapping[str, str],
    has_tokenizer: bool,
    inference: str | None,
    text: str | None,
) -> str:
    """Return the text of a model card.

    Args:
        stages: the stages of the pipe by name.
        name: the name of the folder, as the title.
        takes: the types of inputs.
        gives: the type of predictions.
        versions: the versions that wrote the folder.
        plugins: the plugins that the pipe needs.
        results: sizes and metrics of training, by name.
        has_tokenizer: whether any stage, or a stage within one, has a tokenizer.
        inference: sentences on how a pipe for inference computes, and its error; None for any other pipe.
        text: what the user has to say about the model.
    """
    parts = [
        f"# {_escape(name)}",
        *([text.strip()] if text else []),
        _format_use(takes, gives, plugins, has_tokenizer=has_tokenizer),
        "## Stages\n\n" + _format_table(["stage", "class", "weights"], [_describe(*item) for item in stages.items()]),
    ]
    if inference is not None:
        parts.append(f"## Inference\n\n{inference}")
    if results:
        parts.append("## Training\n\n" + _format_table(["", ""], [list(item) for item in results.items()]))
    needed = [[plugin.distribution, plugin.version, ", ".join(plugin.parts)] for plugin in plugins]
    if needed:
        parts.append("## Plugins\n\n" + _format_table(["distribution", "version", "parts"], needed))
    parts.append("## Versions\n\n" + _format_table(["", ""], [list(item) for item in versions.items()]))
    return "\n\n".join(parts) + "\n"


def _format_use(takes: Sequence[str], gives: str, plugins: Sequence[SavedPlugin], *, has_tokenizer: bool) -> str:
    own = "'ragged-pipeline[text]'" if has_tokenizer else "ragged-pipeline"
    others = (each.distribution for each in plugins if each.distribution != "ragged-pipeline")
    distributions = " ".join(dict.fromkeys([own, *others]))
    types = [f"{option}={hint}" for option, hint in (("takes", takes[0]), ("gives", gives)) if hint != "object"]
    call = ", ".join(["folder", *types])
    return (
        f"Takes {' or '.join(f'`{each}`' for each in takes)}, gives `{gives}`.\n\n"
        "## How to load\n\n"
        f"```\npip install {distributions}\n```\n\n"
        "```python\nfrom pipeline import load\n\n"
        f"pipe = load({call})\nfor prediction in pipe.predict(inputs):\n    print(prediction)\n```\n\n"
        "Loading runs no code of this folder, and checks every byte of it against the manifest, except this file."
    )


def _describe(name: str, stage: StageBase) -> list[str]:
    tensors: list[Tensor] = list(stage.parameters()) if isinstance(stage, nn.Module) else []
    part = getattr(stage, "part_name", None)
    kind = type(stage).__name__ if part is None else f"{type(stage).__name__}({part})"
    return [name, kind, f"{sum(tensor.numel() for tensor in tensors):,}"]


def _format_table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join("| " + " | ".join(map(_escape, line)) + " |" for line in lines)


def _escape(text: str) -> str:
    """Return text for a cell: control characters, and what would end the cell or begin a tag, are escaped."""
    plain = escape_control_characters(text)
    return plain.replace("|", "\\|").replace("<", "&lt;")
