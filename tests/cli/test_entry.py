"""What is typed at a terminal, and what the terminal does: quoting, options, signals, encodings, readers that go."""

from __future__ import annotations

import getpass
import os
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from amn_ray.cli import entry
from amn_ray.cli.overrides import as_meant, quoted
from amn_ray.core.errors import RequestError
from amn_ray.data.source import DatasetConfig

Job = Callable[..., tuple[int, str]]
ROOT = Path(__file__).parents[2]
TEXTS = [
    "~/data/set", "/data/été/set", "/data/猫/set", "/data/run (2)/set", "/data/a=b/set", "/data/a,b/set",
    "/data/Bob's/set", "/data/run #1/set", "/data/{x}/[old]", '/data/"x"', '/data/x"', "a\\b", "/data/x\\", '/x\\"y',
    "/data/$HOME/%20", "C:\\data\\", "1e3", "007", "1_000", "12345678e1234567", "true", "[a]", "choice(a,b)", "nan",
    "-x", "s3://KEY:SECRET@bucket/x?region=eu&scheme=http", "/data/a!&;<>`^|*?b", "/data/–/x:y@z", "/data/a b  c",
]  # fmt: skip


def read(argument: str) -> object:
    """What Hydra makes of the value."""
    job = "predict" if argument.startswith("+images") else "pipeline"
    (meant,) = as_meant(job, [argument])
    return OverridesParser.create().parse_override(meant).value()


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("key", ["dataset.root", "store", "+images", "run"])
def test_a_setting_that_is_a_text_is_taken_as_it_stands(key: str, text: str) -> None:
    assert read(f"{key}={text}") == text


def test_quotes_that_are_there_and_what_hydra_reads_as_a_text_stay() -> None:
    assert read('dataset.root="/data/run (2)"') == "/data/run (2)"
    assert read("dataset.root='a b'") == "a b"
    assert read(r"dataset.root=/data/run\ \(2\)") == "/data/run (2)"
    assert read("run=null") is None
    assert read("backbone.weights=${oc.env:HOME}/w.pth") == "${oc.env:HOME}/w.pth"


def test_a_name_that_a_pipeline_no_longer_has_is_another_job_s_own() -> None:
    assert as_meant("predict", ["crf=false", "images=a"]) == ["crf=false", "images=a"]
    with pytest.raises(RequestError, match=r"^crf\.amn\.conf_bg: .*amn_refined\.conf_bg"):
        as_meant("pipeline", ["crf.amn.conf_bg=0.1"])


def test_options_may_stand_between_settings() -> None:
    assert as_meant("pipeline", ["seed=1", "--cfg", "job", "store=a (1)"]) == [
        "seed=1",
        'store="a (1)"',
        "--cfg",
        "job",
    ]
    assert as_meant("pipeline", ["--config-dir", "/my (2)", "seed=1"]) == ["seed=1", "--config-dir", "/my (2)"]


def test_a_list_of_texts_is_taken_as_it_stands() -> None:
    assert read("dataset.classes=[猫,Bob's, a (b) ]") == ["猫", "Bob's", "a (b)"]
    assert read("dataset.classes=[1,07,1e3,true]") == ["1", "07", "1e3", "true"]
    assert read("dataset.classes=cat,dog") == ["cat", "dog"]
    assert read('dataset.classes=["a,b",c]') == ["a,b", "c"]
    assert read("dataset.classes=cat") == ["cat"]
    assert read("dataset.classes=traffic light") == ["traffic light"]
    assert read("seeds=[0,1]") == [0, 1]


def test_spaces_around_a_text_are_part_of_it() -> None:
    assert read("dataset.separator= ") == " "
    assert read("dataset.separator= and ") == " and "
    assert read("dataset.separator=' '") == " "


def test_a_palette_may_name_classes_that_hydra_cannot_read() -> None:
    with pytest.raises(RequestError) as caught:
        as_meant("pipeline", ["dataset.palette={猫: [255,0,0], 狗: '#00ff00'}"])
    (shown,) = shlex.split(str(caught.value).partition("as in ")[2])
    palette = OverridesParser.create().parse_override(shown).value()
    assert DatasetConfig(palette=palette).palette == {"猫": [255, 0, 0], "狗": "#00ff00"}


@pytest.mark.parametrize(
    "argument", ["maps.scales=[(1)]", "classifier.epochs=1 (2)", "dataset.classes=[a(,[b]]", "study.space.x=é"]
)
def test_what_hydra_cannot_read_is_named_with_a_form_that_it_can(argument: str) -> None:
    with pytest.raises(RequestError) as caught:
        as_meant("pipeline", [argument])
    sentence = str(caught.value)
    assert sentence.startswith(f"{argument}: ")
    assert "quote" in sentence
    (shown,) = shlex.split(sentence.partition("as in ")[2])
    assert OverridesParser.create().parse_override(shown).key_or_group == argument.partition("=")[0]


@pytest.mark.parametrize("text", TEXTS)
def test_quoted_texts_are_read_back(text: str) -> None:
    assert OverridesParser.create().parse_override(f"x={quoted(text)}").value() == text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-m"], ["--multirun", "jobs/sweep.py"]),
        (["--multirun", "seed=0,1"], ["--multirun", "jobs/sweep.py"]),
        (["hydra.mode=MULTIRUN"], ["--multirun", "jobs/sweep.py"]),
        (["seed=0,1"], ["seed=0,1", "jobs/sweep.py"]),
        (["dataset=voc12,coco14"], ["dataset=voc12,coco14", "jobs/sweep.py"]),
        (["--epochs=3"], ["--epochs=3", "key=value"]),
        (["dataset.root=", "/x"], ["/x", "spaces around ="]),
        (["dataset.root = /x"], ["dataset.root = /x", "spaces around ="]),
        (["dataset=/data/my set"], ["dataset=folder 'dataset.root=/data/my set'"]),
        (["dataset=~/x"], ["dataset=folder", "dataset.root=~/x"]),
        (["store="], ["store= is empty"]),
        (["store=file://host/x"], ["store=file://host/x", "three slashes"]),
        (["store=s3:/bucket/x"], ["store=s3:/bucket/x", "two slashes"]),
        (["store=~nobody-here/x"], ["store=~nobody-here/x"]),
        (["store=" + os.fsdecode(b"caf\xe9")], [r"store=caf\xe9", "UTF-8"]),
    ],
)
def test_what_cannot_be_meant_is_refused_in_one_sentence(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], words: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    code, err = job("prepare", *arguments)
    assert code == 2, err
    assert err.count("error:") == 1
    assert "Traceback" not in err
    assert all(word in err for word in words), err
    assert not list(tmp_path.iterdir())


def test_a_home_is_filled_in(job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    code, err = job("prepare", f"store={tmp_path}/s", "dataset=folder", "dataset.root=~/run (2)")
    assert code == 2
    assert f"{tmp_path}/run (2)" in err
    assert "not found" in err


@pytest.fixture(autouse=True)
def _as_in_a_terminal() -> Iterator[None]:
    """A signal that is ignored (the tests may run under nohup) would be ignored in the processes that they start."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


def start(*code: str, **environment: str) -> subprocess.Popen[bytes]:
    """A job whose work is `code`, in a process of its own."""
    lines = ["import os, signal, sys, time", "from amn_ray.cli import entry", "from amn_ray.core.console import log"]
    script = Path(tempfile.mkdtemp()) / "job.py"
    script.write_text(
        "\n".join([*lines, "def main():", *(f"    {line}" for line in code), "entry.run('pipeline', main)"])
    )
    return subprocess.Popen(
        [sys.executable, str(script)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, **environment},
    )


@pytest.mark.parametrize(("number", "words"), [(signal.SIGHUP, "terminal was closed"), (signal.SIGTERM, "terminated")])
def test_a_closed_terminal_ends_a_job_as_sigterm_does(number: signal.Signals, words: str) -> None:
    process = start(
        "try:",
        "    log('cam', 'begun'); sys.stdout.flush(); time.sleep(60)",
        "finally:",
        "    log('cam', 'KILLED')",
    )
    assert process.stdout is not None
    assert b"begun" in process.stdout.readline()
    process.send_signal(number)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 128 + number
    assert b"KILLED" in out
    assert words in err.decode()


def test_a_job_under_nohup_outlives_its_terminal() -> None:
    process = start("os.kill(os.getpid(), signal.SIGHUP)", "log('cam', 'still here')")
    process.communicate()
    assert process.returncode == 128 + signal.SIGHUP
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        process = start("os.kill(os.getpid(), signal.SIGHUP)", "log('cam', 'still here')")
    finally:
        signal.signal(signal.SIGHUP, before)
    out, err = process.communicate()
    assert (process.returncode, b"still here" in out) == (0, True), err


def test_a_user_without_a_home_or_a_name_has_both(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOME", "USER", "LOGNAME", "LNAME", "USERNAME"):
        monkeypatch.setenv(name, "to be restored")
        monkeypatch.delenv(name)
    monkeypatch.setattr(os, "getuid", lambda: 123456789)
    with pytest.raises(KeyError):
        getpass.getuser()
    entry._prepare_user()
    assert getpass.getuser() == "123456789"
    assert Path.home() == Path("/")


def test_a_full_disk_is_told_in_one_sentence() -> None:
    process = start("import errno", "raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), '/store/x')")
    _, err = process.communicate(timeout=120)
    assert process.returncode == 1
    assert err.decode().startswith("error: No space left on device: free some in store=")
    assert b"Traceback" not in err


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_reader_that_goes_does_not_end_a_job(stream: str, tmp_path: Path) -> None:
    process = start(
        "time.sleep(0.2)",
        "for _ in range(3):",
        "    log('cam', 'x' * 10000)",
        f"    print('y' * 10000, file=sys.{stream}, flush=True)",
        f"open({str(tmp_path / 'end')!r}, 'w').close()",
        "raise entry.RunError('τ: ' + 'z' * 100000)",
    )
    assert process.stdout is not None
    assert process.stderr is not None
    getattr(process, stream).close()
    other = process.stderr if stream == "stdout" else process.stdout
    other.read()
    assert process.wait(30) == 1
    assert (tmp_path / "end").exists()


def test_a_job_without_standard_streams_runs(tmp_path: Path) -> None:
    work = f"lambda: open({str(tmp_path / 'end')!r}, 'w').write('1') and print('τ')"
    code = f"from amn_ray.cli import entry\nentry.run('pipeline', {work})"
    command = f"exec {sys.executable} -c {shlex.quote(code)} <&- >&- 2>&-"
    assert subprocess.run(["bash", "-c", command], cwd=ROOT, check=False).returncode == 0
    assert (tmp_path / "end").read_text() == "1"


@pytest.mark.parametrize(
    "environment",
    [
        {"PYTHONIOENCODING": "ascii"},
        {"PYTHONIOENCODING": "latin-1:strict"},
        {"LC_ALL": "C", "LANG": "C"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    ],
)
def test_a_terminal_that_lacks_our_letters_shows_others(environment: dict[str, str], tmp_path: Path) -> None:
    process = start(
        "log('cam', 'τ → –')",
        "import subprocess; subprocess.run([sys.executable, '-c', 'print(\"\\u03c4\")'], check=True)",
        f"open({str(tmp_path)!r} + '/\\u732b.txt', 'w').write('τ')",
        "raise entry.RunError('τ')",
        **environment,
    )
    _, err = process.communicate(timeout=120)
    assert process.returncode == 1, err
    assert b"Error" not in err
    assert err.count(b"error:") == 1
    assert (tmp_path / "猫.txt").read_text(encoding="utf-8") == "τ"
