"""The installer's decisions and sentences, on folders of the test's own: nothing is downloaded."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from setup import install
from setup.words import downloads, explain

ROOT = Path(__file__).parents[2]
FINDER = ROOT / "setup/python.sh"
LOCKS = ("bootstrap", "run", "test", "model", "phoenix")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout with lock files of one package each, and environments that run."""
    (tmp_path / "requirements").mkdir()
    for name in LOCKS:
        (tmp_path / f"requirements/{name}.lock").write_text(f"{name}-package==1.0 \\\n    --hash=sha256:00\n")
    (tmp_path / "pyproject.toml").write_text("[project]\n")
    for name in install.ENVIRONMENTS:
        venv = tmp_path / name
        (venv / "bin").mkdir(parents=True)
        (venv / "bin/python").symlink_to(sys.executable)
        (venv / "bin/activate").write_text(f"VIRTUAL_ENV={venv}\n")
    return tmp_path


def find_python(folder: Path, pythons: dict[str, str], python: str = "") -> subprocess.CompletedProcess[str]:
    """Run the finder with a PATH that has only these programs."""
    for name, script in pythons.items():
        program = folder / name
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
    command = ["/bin/sh", str(FINDER), "-c", "print('found')"]
    return subprocess.run(
        command, env={"PATH": str(folder), "PYTHON": python}, capture_output=True, text=True, check=False
    )


def test_without_any_python_it_says_which_one_to_install(tmp_path: Path) -> None:
    done = find_python(tmp_path, {})
    assert done.returncode == 1
    assert "Callgate needs Python 3.11, 3.12 or 3.13, and there is none here" in done.stderr


def test_an_old_python_is_named_with_its_version(tmp_path: Path) -> None:
    done = find_python(tmp_path, {"python3": "echo 3.9.2; exit 1"})
    assert done.returncode == 1
    assert "(python3 is 3.9.2)" in done.stderr


def test_a_python_without_venv_and_pip_names_the_debian_package(tmp_path: Path) -> None:
    only_version = 'case "$2" in *print*) echo 3.11.2; exit 0;; esac; exit 1'
    done = find_python(tmp_path, {"python3": only_version})
    assert done.returncode == 1
    assert "sudo apt install python3.11-venv" in done.stderr


def test_a_later_name_is_taken_when_the_first_is_too_old(tmp_path: Path) -> None:
    good = f'exec {sys.executable} "$@"'
    done = find_python(tmp_path, {"python3": "echo 3.9.2; exit 1", "python3.11": good})
    assert (done.returncode, done.stdout) == (0, "found\n")


def test_a_python_named_by_the_caller_is_the_only_one_tried(tmp_path: Path) -> None:
    done = find_python(tmp_path, {"python3": f'exec {sys.executable} "$@"'}, python="python9")
    assert done.returncode == 1
    assert "under the name python9" in done.stderr


def test_a_stamp_lets_the_next_start_skip_everything_until_a_lock_file_changes(checkout: Path) -> None:
    assert not install.is_installed(checkout, "run")
    install.write_stamp(checkout, "run")
    assert install.is_installed(checkout, "run")
    assert not install.is_installed(checkout, "test")
    (checkout / "requirements/run.lock").write_text("other==2.0\n")
    assert not install.is_installed(checkout, "run")


def test_what_the_tests_need_is_enough_to_run(checkout: Path) -> None:
    install.write_stamp(checkout, "test")
    assert install.is_installed(checkout, "run")


def test_a_checkout_that_moved_is_installed_anew(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    install.write_stamp(checkout, "run")
    moved = tmp_path_factory.mktemp("elsewhere") / "checkout"
    shutil.move(checkout, moved)
    assert not install.is_installed(moved, "run")
    install.discard_broken(moved / ".venv")
    assert not (moved / ".venv").exists()


def test_an_installation_that_was_cut_short_is_rebuilt_and_a_whole_one_kept(checkout: Path) -> None:
    install.discard_broken(checkout / ".venv")
    assert (checkout / ".venv").exists()
    install.mark_unfinished(checkout)
    install.discard_broken(checkout / ".venv")
    assert not (checkout / ".venv").exists()


def test_an_environment_whose_python_is_gone_is_rebuilt(checkout: Path) -> None:
    (checkout / ".venv/bin/python").unlink()
    install.discard_broken(checkout / ".venv")
    assert not (checkout / ".venv").exists()


def test_too_little_disk_is_said_before_anything_is_fetched(checkout: Path) -> None:
    with pytest.raises(install.InstallError, match=r"MB free and the installation needs 999,999,999,999 MB: make room"):
        install.check_disk(checkout, 999_999_999_999)


def test_certificates_and_proxies_pass_through_and_what_sends_packages_elsewhere_does_not(tmp_path: Path) -> None:
    given = {"HOME": str(tmp_path), "SSL_CERT_FILE": "/ca.pem", "HTTPS_PROXY": "http://p:1", "PIP_USER": "1"}
    kept = install.tool_environment(tmp_path, {**given, "VIRTUAL_ENV": "/other", "PYTHONPATH": "/x"})
    assert (kept["SSL_CERT_FILE"], kept["HTTPS_PROXY"]) == ("/ca.pem", "http://p:1")
    assert not {"PIP_USER", "VIRTUAL_ENV", "PYTHONPATH"} & kept.keys()
    assert "UV_CACHE_DIR" not in kept


@pytest.mark.parametrize("home", ["", "/nonexistent"])
def test_without_a_home_the_caches_stay_in_the_checkout(tmp_path: Path, home: str) -> None:
    kept = install.tool_environment(tmp_path, {"HOME": home})
    assert kept["UV_CACHE_DIR"].startswith(str(tmp_path))


def test_uv_is_told_of_pips_mirror_and_certificates_unless_it_has_its_own() -> None:
    config = "global.index-url='https://mirror.example/simple'\n:env:.cert='/ca.pem'\nglobal.disable='1'\nnonsense"
    told = install.uv_settings(config, {"SSL_CERT_FILE": "/mine.pem"})
    assert told == {"UV_DEFAULT_INDEX": "https://mirror.example/simple"}


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        ("error: failed to write: No space left on device (os error 28)", "The disk is full"),
        ("error: Hash mismatch for `rich==14.0`", "digest that the lock file states"),
        ("ERROR: THESE PACKAGES DO NOT MATCH THE HASHES", "digest that the lock file states"),
        ("Caused by: dns error: failed to lookup address information", "registry cannot be reached"),
        ("invalid peer certificate: UnknownIssuer", "SSL_CERT_FILE"),
        ("error: command 'gcc' failed: No such file or directory", "build-essential"),
        ("x has no wheels with a matching platform tag", "no ready-made build"),
        ("Permission denied (os error 13)", "cannot be written"),
    ],
)
def test_each_known_failure_has_its_sentence(output: str, reason: str) -> None:
    assert reason in explain(output, "It failed.")


def test_an_unknown_failure_is_shown_by_its_last_line() -> None:
    assert explain("a\nthe moon is full\n", "It failed.").startswith("It failed.\nIts last words: the moon is full")


def test_progress_names_the_large_file_under_way() -> None:
    lines = ["Downloading numpy (15.3MiB)", "Downloading scipy (33.1MiB)", " Downloaded numpy"]
    assert downloads(lines) == ", large files 1/2, now scipy (33.1MiB)"
    assert downloads(["Resolved 3 packages"]) == ""


def test_no_network_ends_in_a_sentence_and_no_stamp(checkout: Path) -> None:
    shutil.rmtree(checkout / ".venv")
    shutil.copytree(ROOT / "setup", checkout / "setup", ignore=shutil.ignore_patterns("__pycache__"))
    offline = {
        **os.environ,
        "PIP_INDEX_URL": "http://127.0.0.1:9/simple",
        "PIP_RETRIES": "1",
        "PIP_CONFIG_FILE": os.devnull,
    }
    offline = {k: v for k, v in offline.items() if k not in ("PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL")}
    command = [sys.executable, "-m", "setup.install", "run"]
    done = subprocess.run(command, cwd=checkout, env=offline, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert "registry cannot be reached" in done.stderr
    assert "Traceback" not in done.stderr
    assert not install.is_installed(checkout, "run")
    assert (checkout / ".venv" / install.UNFINISHED).exists()
