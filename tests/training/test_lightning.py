"""A pipe trained with Lightning has the weights of `fit`, on one process and on two."""

from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.testing import assert_close

from pipeline.errors import OptionError, UnknownOptionError
from support.litmodels import make_trainer
from support.needs import needs
from support.trainable import TRAINABLE, copy_weights, list_batches_of_ranks, train_on

pytestmark = [needs("lightning"), pytest.mark.filterwarnings("ignore")]


def make_parts(kind: str, valid: Any = None, **options: Any) -> tuple[Any, Any, Any]:
    """Make a pipe, its module and its data."""
    adapter: Any = import_module("pipeline.training.lightning")
    pipe = TRAINABLE[kind].make()
    examples = TRAINABLE[kind].examples
    data = adapter.PipeData(pipe, examples, valid, test=valid, predict=[each.input for each in examples])
    return pipe, adapter.LightningPipe(pipe, **options), data


@pytest.mark.parametrize("kind", TRAINABLE)
@pytest.mark.parametrize(
    "options", [{}, {"schedule": "cosine", "warmup": 3, "learning_rate": 0.01}], ids=["", "cosine"]
)
def test_the_weights_are_those_of_fit(kind: str, options: Any) -> None:
    """With the optimizer, schedule and clipping of `fit`."""
    pipe, module, data = make_parts(kind, **options)
    make_trainer(max_epochs=2, gradient_clip_val=1.0).fit(module, data)
    wanted = TRAINABLE[kind].make()
    wanted.fit(TRAINABLE[kind].examples, epochs=2, progress=False, **options)
    assert_close(copy_weights(pipe), copy_weights(wanted), rtol=1e-5, atol=1e-6)
    assert not all(
        torch.equal(*pair) for pair in zip(pipe.parameters(), TRAINABLE[kind].make().parameters(), strict=True)
    )


@pytest.mark.parametrize("kind", ["classifier", "heads"])
def test_validation_gives_the_loss_and_the_metrics_of_fit(kind: str) -> None:
    """Of all rows, whatever the batches; and a test gives the same."""
    examples = TRAINABLE[kind].examples
    pipe, module, data = make_parts(kind, examples)
    trainer = make_trainer(max_epochs=2, gradient_clip_val=1.0)
    trainer.fit(module, data)
    history = TRAINABLE[kind].make().fit(examples, valid=examples, epochs=2, progress=False)
    wanted = {"loss": history.epochs[-1].valid_loss, **history.epochs[-1].metrics}
    found = {name: value.item() for name, value in trainer.callback_metrics.items()}
    assert {name: found[f"valid_{name}"] for name in wanted} == pytest.approx(wanted, rel=1e-4)
    tested = trainer.test(module, data, verbose=False)[0]
    assert tested == pytest.approx({f"test_{name}": value for name, value in wanted.items()}, rel=1e-4)
    predictions = [pair for batch in trainer.predict(module, data) for pair in batch]
    assert [each for _, each in sorted(predictions)] == list(pipe.predict([each.input for each in examples]))


def test_two_ranks_train_as_one_process_does_on_their_batches() -> None:
    """The weights of the mean over the rows of both ranks, and the metrics of all rows."""
    examples = TRAINABLE["classifier"].examples
    pipe, module, data = make_parts("classifier", examples)
    trainer = make_trainer(max_epochs=2, devices=2, strategy="ddp_fork", gradient_clip_val=1.0)
    trainer.fit(module, data)
    wanted = TRAINABLE["classifier"].make()
    train_on(wanted, list_batches_of_ranks(2, 2))
    assert_close(copy_weights(pipe), copy_weights(wanted), rtol=1e-5, atol=1e-6)
    found = {name: value.item() for name, value in trainer.callback_metrics.items() if name.startswith("valid_")}
    assert found == pytest.approx(make_trainer().validate(module, data, verbose=False)[0], rel=1e-5)


def test_training_resumes_within_an_epoch(tmp_path: Path) -> None:
    """From a checkpoint of Lightning, which has the state of the loader: equal to the last bit."""
    pipe, module, data = make_parts("classifier")

    def save(*_: Any) -> None:
        if module.trainer.global_step == 7:
            module.trainer.save_checkpoint(tmp_path / "checkpoint")

    module.on_train_batch_end = save
    make_trainer(max_epochs=2).fit(module, data)
    resumed, other, its_data = make_parts("classifier")
    make_trainer(max_epochs=2).fit(other, its_data, ckpt_path=tmp_path / "checkpoint", weights_only=False)
    found, wanted = copy_weights(resumed), copy_weights(pipe)
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_options_are_checked_as_those_of_fit() -> None:
    """Those of a trainer are its own."""
    with pytest.raises(OptionError, match="learning_rate must be a finite number above 0"):
        make_parts("classifier", learning_rate=-1)
    with pytest.raises(UnknownOptionError, match="fit has no option 'lr'"):
        make_parts("classifier", lr=0.1)
