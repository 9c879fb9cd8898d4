"""The runner's arithmetic, its content, and the report that is made of them."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest

from benchmarks import report
from benchmarks.content import KIB, Content, registry_layout
from benchmarks.goals import Goal
from benchmarks.measure import Sample, interleaved, median, ratio, refuse, sample_of, spread
from benchmarks.peers import Peer, Server, all_peers
from benchmarks.plot import Bar, bars
from benchmarks.processes import Failed, Process, cpu_seconds, free_port, own_cpu, pss, tree
from benchmarks.results import Found, plain, size, span
from benchmarks.tables import table

ROUNDS: list[Sample] = [{"x": 10.0}, {"x": 30.0}, {"x": 20.0}]


def running(name: str, folder: Path) -> Server:
    """A server that is none: only its name counts."""
    process = Process(["true"], folder, name=name)
    process.stop()
    return Server(Peer(name, name, lambda _: [], lambda: None), 1, process, folder)


def raw(**changes: Any) -> dict[str, Any]:
    """What the generator reports of ten answers in two seconds."""
    latency = {"p50": 1.0, "p99": 2.0, "max": 3.0}
    usual = {"requests": 10, "bytes": 50, "errors": 0, "complaint": "", "seconds": 2.0, "cpu_seconds": 0.5}
    return usual | {"reconnects": 0, "silent": 0, "latency_us": latency, "first_byte_us": latency} | changes


def test_median_and_spread() -> None:
    """The middle, and half the distance of the extremes as a share of it; nothing of nothing."""
    assert (20.0, 0.5) == (median(ROUNDS, "x"), spread(ROUNDS, "x"))
    assert (None, None) == (median([], "x"), spread(ROUNDS, "y"))


def test_ratio_pairs_the_rounds() -> None:
    """A machine that is twice as slow in one round changes no ratio."""
    theirs: list[Sample] = [{"x": 5.0}, {"x": 15.0}, {"x": 10.0}]
    assert 2.0 == ratio(ROUNDS, theirs, "x")
    assert ratio(ROUNDS, [{"x": 0.0}], "x") is None


def test_a_sample_counts_per_cpu_second() -> None:
    """Requests and bytes are divided by the server's processor time; what else was busy is told apart."""
    sample = sample_of(raw(), 0.25, 2.0)
    assert (40.0, 200.0) == (sample["requests_per_cpu"], sample["bytes_per_cpu"])
    assert (5.0, 0.25, 0.625) == (sample["requests_per_second"], sample["generator_share"], sample["others_share"])
    assert "p50_us" not in sample_of(raw(requests=0), 0.25, 2.0)


def test_one_wrong_answer_spoils_a_sample() -> None:
    """A sample with a wrong answer is refused, in the server's words."""
    refuse(raw())
    with pytest.raises(Failed, match="404"):
        refuse(raw(errors=1, complaint="HTTP/1.1 404 Not Found"))


def test_rounds_are_interleaved_and_turned(tmp_path: Path) -> None:
    """Each round asks every server in another order; who failed is left alone from then on."""
    servers, order = [running(name, tmp_path) for name in "abc"], list[str]()

    def once(server: Server, number: int) -> Sample:
        order.append(f"{server.name}{number}")
        if (server.name, number) == ("b", 1):
            raise Failed("it broke")
        return {"x": number}

    found = interleaved(servers, 3, once)
    assert ["a0", "b0", "c0", "a1", "c1", "b1", "c2", "a2"] == order
    assert ([{"x": 0}], "it broke") == (found["b"].samples, found["b"].failure)


def test_content_is_a_registry_and_the_same_every_time(tmp_path: Path) -> None:
    """Blobs have the size and digest that they say, are tars, and do not change from run to run."""
    contents = [Content(tmp_path / name) for name in ("one", "two")]
    images = [each.image("library/a", "1", [4 * KIB, 64 * KIB]) for each in contents]
    assert images[0] == images[1]
    for stored in (*images[0].layers, images[0].config, images[0].manifest):
        data = contents[0].file(stored).read_bytes()
        assert (stored.size, stored.digest) == (len(data), f"sha256:{hashlib.sha256(data).hexdigest()}")
    with tarfile.open(contents[0].file(images[0].layers[1])) as layer:
        assert [64 * KIB - 1536] == [member.size for member in layer]


def test_the_registry_layout_shares_the_files(tmp_path: Path) -> None:
    """What docker-registry serves is the very same files, named by links."""
    content = Content(tmp_path / "content")
    image = content.image("library/a", "1", [4 * KIB])
    registry_layout(content, tmp_path / "data")
    base, hexadecimal = tmp_path / "data/docker/registry/v2", image.manifest.digest.removeprefix("sha256:")
    assert image.manifest.digest == (base / "repositories/library/a/_manifests/tags/1/current/link").read_text()
    assert (base / f"blobs/sha256/{hexadecimal[:2]}/{hexadecimal}/data").samefile(content.file(image.manifest))


def test_processor_time_counts_the_whole_tree() -> None:
    """What a child used counts while it lives and after it ended."""
    work = "sum(range(10_000_000))"
    code = f"import os\npid = os.fork()\nif pid == 0:\n {work}\n os._exit(0)\nos.wait()\nprint(1, flush=True)\ninput()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        parent.stdout.readline()
        assert cpu_seconds(parent.pid) >= own_cpu(parent.pid) + 0.05
        assert ([parent.pid], 1) == (list(tree(parent.pid)), len(pss(parent.pid)))
        parent.communicate(b"\n")


def test_a_process_ends_with_its_block(tmp_path: Path) -> None:
    """A program that is started is ended by its id; one that ends early is told with what it said."""
    process = Process(["sleep", "60"], tmp_path, name="sleeper")
    process.stop()
    assert process.ended
    with pytest.raises(Failed, match="no such thing"):
        Process(["sh", "-c", "echo no such thing; exit 1"], tmp_path, name="failing").wait_open(free_port())


def test_missing_peers_say_what_brings_them(tmp_path: Path) -> None:
    """A peer that is not there is skipped with a reason, never started."""
    peers = {peer.name: peer for peer in all_peers(tmp_path, tmp_path / "iarproxy", None)}
    assert "make run" in (peers["iarproxy"].missing() or "")
    assert "prepare" in (peers["drayage"].missing() or "")
    assert peers["zot"].missing() is not None


def test_goals_say_reached_or_short() -> None:
    """At the target a goal is reached, on the other side it is short by so much; unmeasured is neither."""
    assert ["reached", "**short**: 50% of the way", "not measured"] == [
        Goal("w", 2.0, value).verdict for value in (2.0, 1.0, None)
    ]
    assert "**short**: 2 times the goal" == Goal("w", 3.0, 6.0, least=False).verdict


def test_numbers_are_short() -> None:
    """Three digits that matter, and the unit that fits."""
    assert ["1,235", "12.3", "1.23"] == [plain(each) for each in (1234.6, 12.34, 1.234)]
    assert ["1.50 GB", "12.0 KB", "7 B"] == [size(each) for each in (1.5e9, 12_000, 7)]
    assert ["2.00 s", "1.50 ms", "70 us"] == [span(each) for each in (2e6, 1500, 70)]


def test_tables_and_plots() -> None:
    """A table has a line for each row; a plot has a bar for each, the longest for the largest, and escapes names."""
    assert "| a | b |\n| --- | ---: |\n| 1 | 2 |\n" == table(["a", "b"], [["1", "2"]])
    picture = bars("A & B", "under", [Bar("x<y", 1.0), Bar("z", 4.0, ours=True)], plain)
    widths = [float(line.split('width="')[1].split('"')[0]) for line in picture.splitlines() if 'rx="2"' in line]
    assert 4.0 == pytest.approx(widths[1] / widths[0])
    assert "x&lt;y" in picture
    assert "A &amp; B" in picture


def test_the_report_is_made_of_the_results(tmp_path: Path) -> None:
    """Measured work, failures and what was left out are all in the report; what was not measured is said so."""
    samples = {
        "iarproxy": {"samples": [{"requests_per_cpu": 30.0}], "failure": None},
        "nginx": {"samples": [{"requests_per_cpu": 10.0}], "failure": None},
        "drayage": {"samples": [], "failure": "HTTP/1.1 404 Not Found"},
    }
    work = {"title": "a manifest", "kind": "requests", "quick": True, "time": "t", "commit": "c", "servers": samples}
    results = {
        "machine": {"cpu": "some", "versions": {}},
        "workloads": {"manifest-get": work},
        "skipped": {"zot": "no"},
    }
    (tmp_path / "latest.json").write_text(json.dumps(results))
    report.write(tmp_path / "latest.json", tmp_path / "docs")
    text = (tmp_path / "docs/benchmarks.md").read_text()
    assert 3.0 == Found(results).ratio("manifest-get", "requests_per_cpu", "nginx")
    for expected in ("| 3.00 x | reached |", "not measured", "failed: HTTP/1.1 404", "- zot: no", "quick run"):
        assert expected in text
    assert (tmp_path / "docs/benchmarks/manifest-get.svg").read_text().startswith("<svg")
