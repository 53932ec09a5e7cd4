"""Parts of plugins are saved by name, and their distribution is in the manifest."""

from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline import Bucket, Classify, Embed, Encode, FromIds, Pad, Pool, StreamChain, load
from pipeline.errors import LoadError
from pipeline.extend import registry
from pipeline.registry import PluginWarning
from pipeline.registry.shared import SharedRegistry
from support.fakes import Fakes
from support.hostile import change_manifest
from support.untyped import as_any

OFFERS = '''\
from pipeline.extend import ModuleStage, Pooled, Spec, hookimpl


class Shrink(ModuleStage[Pooled, Pooled]):
    """Divides vectors. It needs no get_config, since its option is an attribute."""

    def __init__(self, divisor: float = 2.0) -> None:
        super().__init__()
        self.divisor = divisor

    def build(self, spec: Spec, /) -> Spec:
        return spec

    def forward(self, value: Pooled) -> Pooled:
        return value.with_values(value.values / self.divisor)


@hookimpl
def pipeline_stages():
    return {"shrink": Shrink}
'''


@pytest.fixture
def fakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fakes:
    """Return an installed plugin."""
    found = Fakes(tmp_path / "packages", monkeypatch)
    found.add("pipeline-shrink", OFFERS, version="1.2")
    return found


def make_pipe() -> StreamChain[Any, Any]:
    """Return a pipe with a stage of the plugin."""
    body = FromIds() >> Bucket(rows=2) >> Pad() >> Embed(9, 3) >> Encode("lstm", hidden_size=4) >> Pool("max")
    pipe: StreamChain[Any, Any] = body >> as_any(registry().stages.make("shrink", divisor=3.0)) >> Classify(2)
    return pipe


def test_a_stage_of_a_plugin_is_saved_by_its_name(
    fakes: Fakes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the attributes that are named as its options. It is tried again while it is loaded, as in a new process."""
    assert fakes.found()
    pipe = make_pipe()
    pipe.save(tmp_path / "pipe")
    monkeypatch.setattr("pipeline.registry.shared._shared", SharedRegistry())
    loaded = load(tmp_path / "pipe", takes=list[int], gives=int)
    assert as_any(loaded.stages["shrink"]).divisor == 3.0
    batches = [next(as_any(each).eval().predict_batches([[1, 2], [3]])).values for each in (pipe, loaded)]
    assert torch.equal(*batches)


def test_a_missing_plugin_is_named_with_its_distribution(
    fakes: Fakes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And with the command that installs it."""
    make_pipe().save(tmp_path / "pipe")
    for folder in fakes.folder.glob("*.dist-info"):
        (folder / "entry_points.txt").unlink()
    Fakes(tmp_path / "others", monkeypatch)
    with pytest.raises(
        LoadError,
        match=r"the pipe needs stage 'shrink' of pipeline-shrink 1\.2, which is not installed; pip install pipeline-shrink\.",
    ):
        load(tmp_path / "pipe")


def test_another_major_version_is_a_warning(fakes: Fakes, tmp_path: Path) -> None:
    """Another minor version gives no warning."""
    assert fakes.found()
    make_pipe().save(tmp_path / "pipe")
    load(tmp_path / "pipe")
    change_manifest(tmp_path / "pipe", lambda manifest: manifest["plugins"][0].update(version="1.9"))
    load(tmp_path / "pipe")
    change_manifest(tmp_path / "pipe", lambda manifest: manifest["plugins"][0].update(version="2.0"))
    with pytest.warns(PluginWarning, match=r"the pipe was saved with pipeline-shrink 2\.0, and 1\.2 is installed"):
        load(tmp_path / "pipe")


def test_this_library_is_no_plugin_of_the_manifest(tmp_path: Path) -> None:
    """Its version is there anyway."""
    body = FromIds() >> Bucket(rows=2) >> Pad() >> Embed(9, 3) >> Encode("lstm", hidden_size=4) >> Pool("max")
    (body >> Classify(2)).save(tmp_path / "pipe")
    assert '"plugins": []' in (tmp_path / "pipe" / "manifest.json").read_text()
