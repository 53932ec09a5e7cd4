"""Loading runs nothing of the folder, as an audit hook of Python shows."""

import shutil
import subprocess
import sys
from pathlib import Path

from support.attacks import ATTACKS
from support.saved import PIPES

ROOT = Path(__file__).parents[2]


def test_loading_good_and_hostile_folders_runs_no_code(tmp_path: Path) -> None:
    """Once the libraries are imported: no exec, import, socket, process, or file that is written."""
    for name, (make, _) in PIPES.items():
        make().save(tmp_path / name)
    folders = [tmp_path / name for name in PIPES]
    for name, attack in ATTACKS.items():
        folders.append(tmp_path / f"attack {name}".replace("*", ""))
        shutil.copytree(tmp_path / "classifier", folders[-1])
        attack(folders[-1])
    run = subprocess.run(
        [sys.executable, "-m", "support.audited", *map(str, folders)],
        cwd=ROOT / "tests",
        capture_output=True,
        text=True,
        check=False,
    )
    lines = run.stdout.splitlines()
    assert lines == [
        *(f"{name}: loaded []" for name in PIPES),
        *(f"attack {name}: LoadError []".replace("*", "") for name in ATTACKS),
    ], run.stderr
