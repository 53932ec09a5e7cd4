"""`fit` on several ranks trains as one process on the rows of all of them; and what happens if a rank fails."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.multiprocessing.spawn import ProcessException
from torch.testing import assert_close

from pipeline.saving.tensors import read_tensors
from pipeline.training.distributed import Ranks, join_ranks
from pipeline.training.state import load_tensors
from support.needs import SLOW
from support.rank_fits import (
    CASES,
    EXAMPLES,
    VALID,
    describe_errors,
    die_on_rank,
    draw_on_rank,
    fail_on_rank,
    fit_and_resume,
    fit_on_rank,
    make_pipe,
    train_alone,
)
from support.ranked import run_on_ranks
from support.trainable import TRAINABLE

WORLD_SIZES = (2, 3)


@pytest.fixture(scope="module")
def fits(tmp_path_factory: pytest.TempPathFactory) -> dict[int, list[dict[str, Any]]]:
    """Return the results of all cases on each rank. They run together, since it takes seconds to start a process."""
    return {size: run_on_ranks(fit_on_rank, size, Path(tmp_path_factory.mktemp("ranks"))) for size in WORLD_SIZES}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("world_size", WORLD_SIZES)
def test_ranks_have_the_weights_of_one_process(fits: Any, case: str, world_size: int) -> None:
    """That takes the batches of all ranks in each step; ranks get the weights of rank 0 at the beginning."""
    wanted = train_alone(case, world_size)
    for rank in fits[world_size]:
        assert_close(rank[case]["weights"], wanted, rtol=1e-9, atol=1e-9)
    untrained = TRAINABLE[CASES[case][0]].make().double().state_dict()
    assert all(not torch.equal(untrained[name], wanted[name]) for name in wanted)


@pytest.mark.parametrize("world_size", WORLD_SIZES)
def test_the_history_counts_the_rows_of_all_ranks(fits: Any, world_size: int) -> None:
    """Each row once, and all ranks have the same history."""
    first, *others = (rank["classifier"]["history"] for rank in fits[world_size])
    assert [epoch["rows"] for epoch in first["epochs"]] == [len(TRAINABLE["classifier"].examples)] * 2
    assert all(other == first for other in others)


@pytest.fixture(scope="module", params=["ddp", pytest.param("fsdp", marks=SLOW)])
def resumed(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[dict[str, Any]]]:
    """Return the folder and the results of a training on two ranks that was interrupted in its second epoch."""
    folder = Path(tmp_path_factory.mktemp("ranks"))
    return folder, run_on_ranks(fit_and_resume, 2, folder, folder, 4, request.param)


def test_ranks_resume_with_the_same_weights(resumed: tuple[Path, list[dict[str, Any]]]) -> None:
    """To the last bit, with dropout and averaged weights; also the losses and metrics of the history."""
    for rank in resumed[1]:
        (wanted, wanted_history), (found, found_history) = rank["wanted"], rank["found"]
        assert rank["resumed"] in {3, 4}
        assert all(torch.equal(found[name], wanted[name]) for name in wanted)
        assert found_history == wanted_history
    first, second = resumed[1]
    assert all(torch.equal(first["found"][0][name], second["found"][0][name]) for name in first["found"][0])
    assert first["found"][1] == second["found"][1]


def test_only_rank_0_writes(resumed: tuple[Path, list[dict[str, Any]]]) -> None:
    """Checkpoints and logs; others need not have the folder."""
    assert (resumed[0] / "rank0" / "log.csv").read_text(encoding="utf-8").count("\n") == 3
    assert not (resumed[0] / "rank1").exists()


def test_another_number_of_ranks_serves_the_remaining_rows_once(
    resumed: tuple[Path, list[dict[str, Any]]],
) -> None:
    """One process continues what two began, in the middle of an epoch."""
    folder = resumed[0] / "rank0"
    checkpoint = next(path for path in sorted(folder.iterdir()) if path.name.endswith(f"{2:010d}"))
    options: dict[str, Any] = {"ema": 0.9, "accumulate": 2, "schedule": "cosine"}
    history = make_pipe().fit(
        EXAMPLES, valid=VALID, epochs=2, progress=False, checkpoints=folder, resume=checkpoint, **options
    )
    assert history["rows"] == [len(EXAMPLES)] * 2
    assert history.resumed == 2


def test_dropout_differs_by_rank_and_follows_from_the_seed(tmp_path: Path) -> None:
    """The weights are equal nevertheless."""
    (one, weights), (other, theirs) = run_on_ranks(draw_on_rank, 2, tmp_path)
    assert one[0] == one[1]
    assert other[0] == other[1]
    assert one[0] != other[0]
    assert all(torch.equal(weights[name], theirs[name]) for name in weights)


def test_ranks_that_differ_are_rejected(tmp_path: Path) -> None:
    """On all ranks, before a step; and a pipe that cannot share its rows."""
    for rank, found in enumerate(run_on_ranks(describe_errors, 2, tmp_path)):
        assert found["rows"].startswith("OptionError: all ranks must have the same options and data, but plan is ")
        assert "accumulate is 1 on rank 0 and 2 on rank 1" in found["options"]
        assert found["options"].endswith(f"It was raised on rank {rank} of 2.")
        assert "CompositionError: several ranks need a pipe with one Bucket or BPTTWindows" in found["streams"]


def test_an_error_of_one_rank_ends_the_others_and_is_named_there(tmp_path: Path) -> None:
    """With its rank, and with the row."""
    found = run_on_ranks(fail_on_rank, 2, tmp_path)
    failed = next(rank for rank, error in enumerate(found) if error.startswith("TargetError"))
    assert "got 7 in row 20" in found[failed]
    assert f"It was raised on rank {failed} of 2." in found[failed]
    assert f"stopped because another rank did: rank {failed} failed: TargetError: targets must" in found[1 - failed]


def test_a_killed_rank_ends_all(tmp_path: Path) -> None:
    """Within seconds, not after the timeout of half an hour."""
    begin = time.monotonic()
    with pytest.raises(ProcessException):
        run_on_ranks(die_on_rank, 2, tmp_path)
    assert time.monotonic() - begin < 60


def launch(folder: Path, how: str) -> subprocess.CompletedProcess[str]:
    """Run the script of `support.rank_fits` on two ranks with torchrun."""
    tests = Path(__file__).parents[1]
    return subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"),
            *("-m", "support.rank_fits", str(folder), how),
        ],
        capture_output=True,
        check=False,
        cwd=tests,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(tests)},
        text=True,
        timeout=120,
    )


def test_torchrun_needs_no_other_line(tmp_path: Path) -> None:
    """`fit` joins the ranks and leaves them; validation is that of one process, and rank 0 alone shows progress."""
    done = launch(tmp_path, "train")
    assert done.returncode == 0, done.stderr
    weights = [read_tensors(tmp_path / str(rank)) for rank in range(2)]
    histories = [json.loads((tmp_path / f"{rank}.json").read_text(encoding="utf-8")) for rank in range(2)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert histories[0]["epochs"] == histories[1]["epochs"]
    assert done.stderr.count("epoch 1/2") == 1
    pipe = make_pipe(0)
    load_tensors(pipe, weights[0])
    evaluation = pipe.evaluate(VALID)
    best = max(histories[0]["epochs"], key=lambda epoch: (epoch["metrics"]["accuracy"], -epoch["valid_loss"]))
    assert best["valid_loss"] == pytest.approx(evaluation.loss, rel=1e-5)
    assert best["metrics"]["accuracy"] == evaluation.metrics["accuracy"]


@SLOW
def test_torchrun_ends_if_a_rank_is_killed(tmp_path: Path) -> None:
    """With the signal, and an error that says so on the other rank."""
    done = launch(tmp_path, "die")
    assert done.returncode != 0
    assert "exitcode  : -9" in done.stderr or "Signal 9 (SIGKILL)" in done.stderr
    assert not (tmp_path / "0").exists()


def test_one_process_is_the_only_rank() -> None:
    """Without a launcher, nothing is joined."""
    with join_ranks() as ranks:
        assert ranks == Ranks()
    assert Ranks().gather(3) == [3]
