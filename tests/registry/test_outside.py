"""Test an external package that pip installs, `outside/pipeline-mingru`: it works like the library's own parts."""

import os
import re
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import cast

import pytest
import torch

from pipeline import (
    AttendEarlier,
    Bucket,
    Chain,
    Classify,
    Embed,
    Encode,
    Encoder,
    FromIds,
    Ids,
    MaybeCausal,
    NextToken,
    Pack,
    Pad,
    Padded,
    Pool,
    Scores,
    Vectors,
)
from pipeline.errors import PluginError
from pipeline.extend import join
from pipeline.registry import Registry, discover_plugins, registry
from pipeline.testing import (
    ATTENTION_LAWS,
    ENCODER_LAWS,
    HEAD_LAWS,
    METRIC_LAWS,
    MODULE_LAWS,
    POLICY_LAWS,
    POOL_LAWS,
    SOURCE_LAWS,
    STAGE_LAWS,
    TOKENIZER_LAWS,
    Law,
    check_head,
    check_policy,
    check_stage,
    make_batch,
)
from pipeline_recurrent import GRU
from support.fakes import Fakes

SOURCE = Path(__file__).parents[1] / "outside" / "pipeline-mingru"
HIGHWAY = SOURCE.parent / "pipeline-highway"


@pytest.fixture
def installed() -> Registry:
    """Return the installed parts, including those of the external package."""
    try:
        distribution("pipeline-mingru")
    except PackageNotFoundError:
        if os.environ.get("PIPELINE_TESTS_INSTALLED"):
            pytest.fail("pipeline-mingru is missing from the session that installs it")
        pytest.skip(f"pipeline-mingru is not installed; the tests session has it, or: pip install {SOURCE}")
    return registry()


def test_it_is_found_by_its_entry_point(installed: Registry) -> None:
    """Its name and version are those of its pyproject.toml."""
    project = tomllib.loads((SOURCE / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    plugin = installed.encoders.offer("mingru").plugin
    assert (plugin.package, plugin.version, plugin.entry) == (project["name"], project["version"], "mingru")
    assert plugin.failure is None


@pytest.mark.usefixtures("installed")
def test_it_builds_a_classifier() -> None:
    """Its input size comes from the stage before it, and every row gets a prediction."""
    states = Pack() >> Embed(9, 5) >> Encode("mingru", hidden_size=4)
    pipe = FromIds() >> Bucket(max_padded_steps=16) >> Pad() >> states >> Pool("final") >> Classify(3)
    assert len(list(pipe.predict([[1, 2, 3], [], [4], [5, 6, 7, 8]]))) == 4


@pytest.mark.usefixtures("installed")
def test_it_may_promise_to_be_causal() -> None:
    """It works in a language model."""
    model = Pack() >> Embed(9, 5) >> Encode("mingru", causal=True, hidden_size=4) >> AttendEarlier() >> NextToken(9)
    assert "encode.encoder.gate.weight" in model.state_dict()


@pytest.mark.parametrize("law", ENCODER_LAWS)
def test_it_obeys_the_laws(installed: Registry, law: Law[Encoder[MaybeCausal]]) -> None:
    """The laws of every encoder hold for a part that was created by name."""
    law(lambda: installed.encoders.make("mingru", input_size=3, hidden_size=4))


def test_a_stage_reads_it_in_either_layout(installed: Registry) -> None:
    """Padded and packed batches give the same states."""
    encode = Encode(installed.encoders.make("mingru", input_size=3, hidden_size=4))
    batch = make_batch([torch.ones(time, 3) for time in (2, 0, 5)])
    assert torch.equal(encode(batch).packed().values, encode(batch.packed()).packed().values)
    with pytest.raises(TypeError, match="has input_size=3, got values with 4 features"):
        encode(Padded(Vectors, torch.ones(1, 2, 4), torch.tensor([2])))


def test_installed_twice_it_collides_by_name(installed: Registry) -> None:
    """The same package under another name is an error that names both."""
    (entry,) = distribution("pipeline-mingru").entry_points.select(group="pipeline")
    found = discover_plugins([distribution("pipeline-mingru")])
    found.load(entry, installed.encoders.offer("lstm").plugin)
    with pytest.raises(
        PluginError, match=r"encoder 'mingru' is offered by pipeline-mingru 1\.0 .* and ragged-pipeline "
    ):
        found.encoders.make("mingru", input_size=3, hidden_size=4)


def test_plugins_page_shows_this_package() -> None:
    """docs/plugins.md contains its pyproject.toml and its module unchanged."""
    page = Path(__file__).parents[2] / "docs" / "plugins.md"
    blocks = re.findall(r"^```(\w+)\n(.*?)^```$", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    assert ("toml", (SOURCE / "pyproject.toml").read_text(encoding="utf-8")) in blocks
    assert ("python", (SOURCE / "pipeline_mingru" / "__init__.py").read_text(encoding="utf-8")) in blocks


def test_plugins_page_lists_every_law() -> None:
    """Its tables contain exactly the laws that exist."""
    page = (Path(__file__).parents[2] / "docs" / "plugins.md").read_text(encoding="utf-8")
    named = re.findall(r"^\| `(\w+)` \| ", page[page.index("## The laws") :], flags=re.MULTILINE)
    laws = (
        *(ENCODER_LAWS, ATTENTION_LAWS, POOL_LAWS, TOKENIZER_LAWS, MODULE_LAWS),
        *(STAGE_LAWS, HEAD_LAWS, POLICY_LAWS, SOURCE_LAWS, METRIC_LAWS),
    )
    assert sorted(set(named)) == sorted({str(getattr(law, "__name__", law)) for kind in laws for law in kind})


@pytest.fixture
def highway(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    """Return the parts of an external package with a stage, a head and a policy, with the metadata that pip writes."""
    project = tomllib.loads((HIGHWAY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    ((name, module),) = project["entry-points"]["pipeline"].items()
    fakes = Fakes(tmp_path / "site", monkeypatch)
    fakes.metadata(
        f"{module}-{project['version']}",
        METADATA=f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n",
        **{"entry_points.txt": f"[pipeline]\n{name} = {module}\n"},
    )
    monkeypatch.setattr(sys, "path", [str(HIGHWAY), *sys.path])
    return fakes.registry()


def test_stage_head_and_policy_from_outside_are_found(highway: Registry) -> None:
    """By name, with their distribution; they pass their trials, and work in a pipe."""
    parts = {catalogue.kind: (offer.name, str(offer.plugin)) for catalogue, offer in highway.parts()}
    plugin = "pipeline-highway 1.0 (entry point 'highway')"
    assert parts == {
        "stage": ("highway", plugin),
        "head": ("binary", plugin),
        "policy": ("powers_of_two", plugin),
    }
    policy = highway.policies.make("powers_of_two", max_padded_steps=16)
    stage, head = highway.stages.make("highway"), highway.heads.make("binary")
    encode = Embed(9, 5) >> Encode(GRU(5, 4))
    model = cast("Chain[Padded[Ids], Scores[bool]]", join(encode, stage, Pool("max"), head))
    data = FromIds() >> Bucket(policy=policy) >> Pad()
    weights = {"binary.linear.bias", "binary.linear.weight", "highway.linear.bias", "highway.linear.weight"}
    assert set(model.state_dict()) == weights | set(encode.state_dict())
    found = [row for batch in data([[1, 2, 3], [], [4]]) for row in model(batch).rows()]
    assert sorted(row_id for row_id, _ in found) == [0, 1, 2]
    assert {type(prediction) for _, prediction in found} == {bool}


def test_stage_head_and_policy_from_outside_obey_the_laws(highway: Registry) -> None:
    """All laws, not only those of the trial."""
    check_stage(lambda: highway.stages.make("highway"))
    check_head(lambda: highway.heads.make("binary"))
    check_policy(lambda: highway.policies.make("powers_of_two", max_padded_steps=100))


def test_page_about_stages_shows_this_package() -> None:
    """docs/writing-a-stage.md contains its head and its policy unchanged."""
    page = (Path(__file__).parents[2] / "docs" / "writing-a-stage.md").read_text(encoding="utf-8")
    module = (HIGHWAY / "pipeline_highway" / "__init__.py").read_text(encoding="utf-8")
    classes = re.findall(r"(@final\n.*?)\n\n\n(?=@)", module, flags=re.DOTALL)
    assert [text for text in classes if "class Highway" not in text and text not in page] == []
    assert len(classes) == 3
