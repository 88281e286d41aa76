"""The simulator: what can be worked out by hand comes out, the same each time."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import pathlib
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import simpy
import yaml
from hypothesis import given
from hypothesis import strategies as st
from nova.conf.opts import list_opts as nova_options
from oslo_messaging.opts import list_opts as messaging_options

from simulator import __main__ as command
from simulator import (
    generate,
    links,
    nova_scheduler,
    parameters,
    policies,
    sensitivity,
    table,
    trace,
)
from simulator.cloud import Cloud, Host, Server, image_id
from simulator.run import Outcome, percentile, run
from simulator.trace import Request

SIZE = 3_000_000_000
FLAVOR = {"vcpus": 2, "ram_mb": 4096, "disk_gb": 20}


def request(
    time_s: float, image: str = "a", *, lifetime_s: float | None = None, count: int = 1
) -> Request:
    return Request(time_s, lifetime_s, image, SIZE, count=count, **FLAVOR)


def assumed(**changed: Any) -> parameters.Parameters:
    """No chance in a boot's time."""
    return dataclasses.replace(parameters.load(), boot_jitter=1e-12, **changed)


def simulate(requests: list[Request], policy: str = "nova_default", hosts: int = 1) -> Outcome:
    return run(requests, policy, hosts, 1, assumed())


def test_bandwidth_is_shared_max_min() -> None:
    """Three flows share one host's 4; the other host may take what they leave, up to its own 4."""
    rates = links.fair_rates({1: 3, 2: 1}, total=10.0, per_group=4.0, per_flow=9.0)
    assert rates == {1: pytest.approx(4 / 3), 2: 4.0}
    assert links.fair_rates({1: 3, 2: 1}, 4.0, 4.0, 9.0) == {1: 1.0, 2: 1.0}
    assert links.fair_rates({1: 3, 2: 1}, 10.0, 4.0, 1.0) == {1: 1.0, 2: 1.0}


@given(
    counts=st.dictionaries(st.integers(0, 9), st.integers(1, 20), min_size=1),
    total=st.floats(1, 1000),
    per_group=st.floats(1, 1000),
    per_flow=st.floats(1, 1000),
)
def test_nothing_that_could_be_sent_is_left(
    counts: dict[int, int], total: float, per_group: float, per_flow: float
) -> None:
    """Each flow is at a bound of its own, or all others that could give are no faster."""
    rates = links.fair_rates(counts, total, per_group, per_flow)
    used = sum(rates[group] * count for group, count in counts.items())
    assert used <= total * (1 + 1e-9)
    for group, count in counts.items():
        limit = min(per_group / count, per_flow)
        assert rates[group] <= limit * (1 + 1e-9)
        if rates[group] < limit * (1 - 1e-9):
            assert used == pytest.approx(total)
            assert rates[group] == pytest.approx(max(rates.values()))


def test_two_servers_wait_for_one_download() -> None:
    """3 GB at 300 MB/s: 10 s to fetch, 10 s to convert, 8 s to boot; a later boot has but the 8."""
    outcome = simulate([request(0, count=2), request(1000)])
    first = 0.06 + 0.0305 + 2 * 0.0351 + 0.5 + 10 + 10 + 8
    later = 0.06 + 0.0305 + 0.0351 + 0.5 + 8
    assert outcome.boots == pytest.approx([later, first, first])
    figures = outcome.figures
    assert (figures["downloads"], figures["bytes_from_glance"]) == (1, SIZE)
    assert figures["hit_share"] == pytest.approx(1 / 3)
    assert figures["max_builds_one_host"] == 2
    assert sum(outcome.traffic) == pytest.approx(SIZE)


@pytest.mark.parametrize(("away", "downloads"), [(86400 - 2500, 1), (86400 + 2500, 2)])
def test_an_unused_image_goes_with_the_first_pass_after_a_day(away: float, downloads: int) -> None:
    """Nova's default ageing: a pass each 40 minutes, 24 hours."""
    outcome = simulate([request(0, lifetime_s=10.0), request(away), request(away + 100)])
    assert outcome.figures["downloads"] == downloads


def test_what_finds_no_room_fails_whole() -> None:
    """63 servers of 4 GiB go into 256 GiB less what is reserved; a request for 64 gets nothing."""
    outcome = simulate([request(0, count=64), request(10, count=63)])
    assert outcome.figures["failed"] == 64
    assert len(outcome.boots) == 63


def test_requests_at_once_do_not_see_each_other() -> None:
    """As in Nova: until a host claims, each request has HostStates without the others' servers."""
    one_worker = assumed(scheduler_workers=1)
    requests = [request(0, image) for image in "abc"]
    assert run(requests, "nova_default", 4, 1, one_worker).figures["max_builds_one_host"] == 3
    together = [request(0, count=3)]
    assert run(together, "nova_default", 4, 1, one_worker).figures["max_builds_one_host"] == 1


def make_cloud(env: simpy.Environment, hosts: int, **changed: Any) -> Cloud:
    return Cloud(
        env,
        hosts=hosts,
        sizes={"a": SIZE},
        parameters=assumed(**changed),
        seed=1,
        observe=lambda *_: None,
    )


def build_one(
    server: Request, update_phase: float
) -> tuple[simpy.Environment, Host, simpy.Process]:
    """Have the only host build a server; its record is updated at that second of each minute."""
    env = simpy.Environment()
    cloud = make_cloud(env, 1)
    (host,) = cloud.hosts
    host.update_phase = update_phase
    return env, host, cloud.build(Server(server, 0, None, host))


def test_a_build_counts_until_the_next_periodic_update() -> None:
    """As Nova's num_io_ops: at its end no record is written."""
    env, host, done = build_one(request(0), update_phase=10.0)
    env.run(until=1)
    assert host.building == 1
    env.run(until=done)
    assert env.now == pytest.approx(28)
    env.run(until=69.9)
    assert (host.building, host.builds) == (1, 0)
    env.run(until=70.1)
    assert host.building == 0


def test_a_deletion_before_the_update_takes_its_build_out() -> None:
    """As Nova's Stats does; and no claim, but the update, writes disk_available_least."""
    env, host, done = build_one(request(0, lifetime_s=10.0), update_phase=59.0)
    env.run(until=done)
    assert (host.building, host.disk_available_least) == (1, 4000)
    env.run(until=58.9)
    assert (host.building, host.num_instances, host.disk_available_least) == (0, 0, 4000)
    env.run(until=59.1)
    assert (host.building, host.disk_available_least) == (0, 4000 - SIZE // 2**30)


def test_hosts_of_two_sizes() -> None:
    """As many of each, the second with half of all."""
    hosts = make_cloud(simpy.Environment(), 3, host_generations=2).hosts
    assert [(host.vcpus, host.ram_mb, host.disk_gb) for host in hosts] == [
        (64, 262_144, 4000),
        (32, 131_072, 2000),
        (64, 262_144, 4000),
    ]
    assert [host.room for host in hosts[:2]] == [[256, 261_632, 4000], [128, 130_560, 2000]]


@pytest.mark.parametrize(
    ("agents", "held_from", "gone_late"), [(True, 20, 0), (False, 28, 2 * 2400)]
)
def test_what_the_index_knows(agents: bool, held_from: float, gone_late: float) -> None:
    """On its way from the build's begin; held when it is fetched, or without agents when the build
    is through; gone at once, or without agents two intervals later."""
    env = simpy.Environment()
    cloud = make_cloud(env, 1, agents=agents)
    (host,) = cloud.hosts
    image = image_id("a")

    def known() -> tuple[bool, bool]:
        return host.name in cloud.index.coming[image], host.name in cloud.index.held[image]

    cloud.build(Server(request(0, lifetime_s=10.0), 0, None, host))
    env.run(until=held_from)
    assert known() == (True, False)
    env.run(until=held_from + 0.1)
    assert known() == (False, True)
    while host.cache:
        env.run(until=env.now + 1.0)
    assert 86400 <= env.now <= 86400 + 2 * 2400 + 1
    if gone_late:
        env.run(until=env.now + gone_late - 2.0)
        assert known() == (False, True)
    env.run(until=env.now + 2.1)
    assert known() == (False, False)


def test_what_is_fetched_again_is_not_predicted_gone() -> None:
    """Without agents a prediction that is late would else take out what is there."""
    env = simpy.Environment()
    cloud = make_cloud(env, 1, agents=False)
    (host,) = cloud.hosts
    cloud.build(Server(request(0, lifetime_s=10.0), 0, None, host))
    env.run(until=60)
    while host.cache:
        env.run(until=env.now + 1.0)
    cloud.build(Server(request(0), 1, None, host))
    env.run(until=env.now + 3 * 2400)
    assert cloud.downloads == 2
    assert host.name in cloud.index.held[image_id("a")]


def test_a_short_trace_has_an_imbalance() -> None:
    """It is looked at each second; each ten minutes nothing would have been seen."""
    outcome = simulate([request(0), request(60)], "flat_10", hosts=2)
    assert (outcome.interval, len(outcome.ram)) == (1.0, 69)
    assert outcome.figures["ram_cv"] > 0.5
    assert sum(outcome.traffic) == pytest.approx(SIZE)


def test_the_real_weigher_sees_the_model() -> None:
    """Nova spreads; the product's weigher follows the image that the first host holds."""
    requests = [request(100.0 * index) for index in range(3)]
    assert simulate(requests, "nova_default", 4).figures["downloads"] == 3
    assert simulate(requests, "bus_cache", 4).figures["downloads"] == 1


@pytest.mark.parametrize("policy", policies.ALL)
def test_the_same_seed_is_the_same_run(policy: str) -> None:
    """All policies, with bursts; and every figure is there."""
    shape = generate.Shape(boots=60, days=0.1, images=5, load=0.2)
    outcomes = [run(generate.generate(shape, 5, 262144, 1), policy, 5, 7, assumed()) for _ in "ab"]
    assert outcomes[0] == outcomes[1]
    assert list(outcomes[0].figures) == [
        "bytes_from_glance", "downloads", "hit_share", "boot_p50_s", "boot_p95_s", "boot_p99_s",
        "burst_makespan_s", "max_builds_one_host", "ram_cv", "failed",
    ]  # fmt: skip
    assert generate.generate(shape, 5, 262144, 1) != generate.generate(shape, 5, 262144, 2)


def test_shortcuts_and_kept_states_change_no_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is done for speed, against Nova's own ways and HostStates made anew each time."""
    # within three minutes: many are chosen before others claim
    shape = generate.Shape(boots=60, days=0.002, images=5, load=0.2)
    requests = generate.generate(shape, 5, 262144, 1)
    with monkeypatch.context() as patch:
        patch.setattr(nova_scheduler.Worker, "_state", lambda self, host: self._record.state(host))
        plain = run(requests, "bus_cache", 5, 7, assumed())
    with monkeypatch.context() as patch:
        for target, attribute, value in nova_scheduler.shortcuts():
            patch.setattr(target, attribute, value)
        assert run(requests, "bus_cache", 5, 7, assumed()) == plain


@pytest.mark.parametrize("name", ["trace.csv", "trace.csv.gz"])
def test_a_trace_is_read_as_written(tmp_path: pathlib.Path, name: str) -> None:
    """Gzipped or not, and with servers that stay."""
    requests = generate.generate(generate.Shape(boots=200, days=0.5), 10, 262144, 3)
    assert {request.lifetime_s is None for request in requests} == {True, False}
    assert sum(request.count for request in requests) == 200
    trace.write(tmp_path / name, requests)
    assert trace.read(tmp_path / name) == requests


def refused(path: pathlib.Path, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Have the command refuse to run a trace; return its one line."""
    with pytest.raises(SystemExit) as end:
        command.main(["--trace", str(path), "--hosts", "1", *arguments])
    assert end.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


HEAD = ",".join(trace.COLUMNS) + "\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "it lacks time_s, lifetime_s"),
        (HEAD.replace(",count", ""), "it lacks count; it is 'time_s,lifetime_s"),
        (HEAD.replace(",", ";"), "with commas between"),
        (HEAD.replace("vcpus", "count"), "it lacks vcpus"),
        (HEAD.replace("\n", ",count\n"), "names count twice"),
        (HEAD + "0,,a,5,1,1,1,1,1\n", "line 2: it has more fields"),
        (HEAD + "0,,a,5,1,1,1,1e300\n", "line 2: count is 1e300; the most is 1e+15"),
        (HEAD + "0,,a,5,1,1,1,1\n1.7e9,,a,5,1,1,1,1\n", "it is 19676 days"),
        (HEAD, "no request"),
        (HEAD + "0,,a,5,1,1,1,0\n", "line 2: count is 0"),
        (HEAD + "0,-1,a,5,1,1,1,1\n", "lifetime_s is -1; the least is 0"),
        (HEAD + "nan,,a,5,1,1,1,1\n", "time_s is 'nan', which is no number"),
        (HEAD + "0,,a,5,1.5,1,1,1\n", "vcpus is '1.5', which is no whole number"),
        (HEAD + "0,,a,5,x,1,1,1\n", "vcpus is 'x', which is no whole number"),
        (HEAD + "0,,a,5,1,1\n", "disk_gb is ''"),
        (HEAD + "0,,,5,1,1,1,1\n", "image is empty"),
        (HEAD + "9,,a,5,1,1,1,1\n8,,a,x,1,1,1,1\n", "line 3: image_bytes is 'x'"),
        (HEAD + "0,,\udcd0,5,1,1,1,1\n", "it is no text in UTF-8"),
    ],
)
def test_a_bad_trace_is_refused_in_one_line(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str], text: str, said: str
) -> None:
    """By the command, without a traceback."""
    path = tmp_path / "bad.csv"
    path.write_text(text, errors="surrogateescape")
    error = refused(path, capsys)
    assert said in error
    assert error.startswith(f"error: {path}")


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        (["9", "8"], [8.0, 9.0]),
        (["86400", "86401.5"], [86400.0, 86401.5]),
        (["-3", "0"], [0.0, 3.0]),
        (["1700000005", "1700000000"], [0.0, 5.0]),
    ],
)
def test_lines_in_any_order_and_any_clock(
    tmp_path: pathlib.Path, times: list[str], expected: list[float]
) -> None:
    """No cloud is run empty from the epoch to the first request."""
    path = tmp_path / "t.csv"
    path.write_text(HEAD + "".join(f"{time},,a,5,1,1,1,1\n" for time in times))
    assert [each.time_s for each in trace.read(path)] == expected


def test_another_size_is_another_image(tmp_path: pathlib.Path) -> None:
    """A new version under the old name; and numbers as tools write columns with gaps."""
    path = tmp_path / "t.csv"
    lines = "0,,a,5,1,1,1,1\n1,2.5,a,6,1.0,1,0,1e1\n2,,a,5,1,1,1,1\n"
    path.write_text("\ufeff" + HEAD + lines, encoding="utf-8")
    first, second, third = trace.read(path)
    assert first.image == third.image == "a"
    assert second.image == "a of 6 bytes"
    assert (second.vcpus, second.count, second.lifetime_s) == (1, 10, 2.5)


def test_the_command_writes_a_json_by_policy(tmp_path: pathlib.Path) -> None:
    """In processes of its own, with the options as they are there."""
    trace.write(tmp_path / "t.csv.gz", [request(0), request(100)])
    out = tmp_path / "out.json"
    command.main([
        "--trace", str(tmp_path / "t.csv.gz"), "--hosts", "2", "--seed", "1", "--jobs", "1",
        "--json", str(out), "--policies", "flat_10,clairvoyant", "--glance-gbit", "0.8",
    ])  # fmt: skip
    figures = json.loads(out.read_text())
    assert list(figures) == ["flat_10", "clairvoyant"]
    assert figures["flat_10"]["downloads"] == 1
    assert figures["flat_10"]["boot_p99_s"] > 0.69 + SIZE / 1e8 + SIZE / 3e8


@pytest.fixture
def own_options() -> Iterator[None]:
    """Nova's options are the process's: have what a file says not outlive the test."""
    yield
    nova_scheduler.CONF([], project="nova", default_config_files=[], default_config_dirs=[])


@pytest.mark.usefixtures("own_options")
def test_a_nova_conf_counts_for_all_policies(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """There one host is filled first, so Nova alone fetches once. Metrics are left out, and what
    Nova of this machine reads besides."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (folder := tmp_path / ".nova" / "nova.conf.d").mkdir(parents=True)
    (folder / "own.conf").write_text("[filter_scheduler]\nram_weight_multiplier = 5\n")
    trace.write(tmp_path / "t.csv", [request(1000.0 * index) for index in range(3)])
    (tmp_path / "nova.conf").write_text(
        "[filter_scheduler]\nram_weight_multiplier = -5\ncpu_weight_multiplier = -5\n"
        "disk_weight_multiplier = 0\nio_ops_weight_multiplier = 0\n"
        f"[image_cache_weigher]\nmetrics_folder = {tmp_path / 'metrics'}\n"
    )
    line = ["--trace", str(tmp_path / "t.csv"), "--hosts", "3", "--policies"]
    out = tmp_path / "out.json"
    command.main([*line, "nova_default", "--json", str(out)])
    assert json.loads(out.read_text())["nova_default"]["downloads"] == 3
    file = ["--config-file", str(tmp_path / "nova.conf")]
    command.main([*line, "nova_default,bus_cache", *file, "--json", str(out)])
    figures = json.loads(out.read_text())
    assert {name: got["downloads"] for name, got in figures.items()} == {
        "nova_default": 1,
        "bus_cache": 1,
    }
    assert not (tmp_path / "metrics").exists()
    assert "| bus_cache | 1.00 | 1.00 | 1.00 | 1.00 |" in capsys.readouterr().out


@pytest.mark.usefixtures("own_options")
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--json", "/nowhere/out.json"], "/nowhere/out.json: No such file or directory"),
        (["--pictures", "/proc/pictures"], "/proc/pictures: "),
        (["--glance-gbit", "0"], "--glance-gbit must be above 0"),
        (["--ram-mb", "-1"], "--ram-mb must be above 0"),
        (["--policies", "best"], "no such policy: best; there are nova_default, "),
        (["--config-file", "/nowhere/nova.conf"], "/nowhere/nova.conf: "),
        (
            ["--config-file", "mistyped.conf"],
            "mistyped.conf: [image_cache_weigher] most_build is no",
        ),
        (["--config-file", "no_number.conf"], "no_number.conf: "),
    ],
)
def test_wrong_use_is_told_before_the_work(
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    said: str,
) -> None:
    """In one line: hours of work would be lost."""
    monkeypatch.chdir(tmp_path)
    pathlib.Path("mistyped.conf").write_text("[image_cache_weigher]\nmost_build = 2\n")
    pathlib.Path("no_number.conf").write_text("[filter_scheduler]\nram_weight_multiplier = abc\n")
    trace.write(tmp_path / "t.csv", [request(0)])
    assert refused(tmp_path / "t.csv", capsys, *arguments).startswith(f"error: {said}")


def test_a_broken_gzip_is_refused_in_one_line(tmp_path: pathlib.Path) -> None:
    """Wherever it is broken."""
    path = tmp_path / "t.csv.gz"
    trace.write(path, generate.generate(generate.Shape(boots=200, days=0.5), 10, 262144, 3))
    whole = path.read_bytes()
    for place in range(2, len(whole), 97):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x10]) + whole[place + 1 :])
        with contextlib.suppress(trace.TraceError):
            trace.read(path)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--boots", "0"], "--boots must be above 0"),
        (["--days", "nan"], "--days must be above 0"),
        (["--load", "2"], "--burst-share and --load are parts"),
        (["--zipf", "99"], "--zipf is 10 at the most"),
        ([], "No such file or directory"),
    ],
)
def test_a_trace_that_cannot_be_made(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    """By the generator's command."""
    with pytest.raises(SystemExit) as end:
        generate.main([str(tmp_path / "nowhere" / "t.csv"), "--hosts", "1", *arguments])
    assert end.value.code == 2
    assert said in capsys.readouterr().err


def test_ratios_say_how_many_traces_meet_a_goal() -> None:
    """Means with an interval where there are several; none where there is nothing to compare."""
    keys = [key for key, _ in table.GOALS]
    base = [dict.fromkeys(keys, 10.0), dict.fromkeys(keys, 20.0)]
    ours = [dict.fromkeys(keys, 3.0), dict.fromkeys(keys, 10.0)]
    lines = table.ratios({"ours": ours}, base).splitlines()
    assert lines[-1].startswith("| ours | 0.40 ± 1.27 (1/2) |")
    assert table.ratios({"ours": ours[:1]}, base[:1]).endswith("| 0.30 | 0.30 | 0.30 | 0.30 |")
    nothing = dict.fromkeys(keys, 0.0)
    assert table.ratios({"ours": [nothing]}, [nothing]).endswith("| ours | - | - | - | - |")


TINY = 12, {"boots": 120, "days": 0.02, "images": 5, "load": 0.3}


def test_a_case_has_its_own_options_cloud_and_constants() -> None:
    """A weigher without a multiplier, or to which holding is nothing, is another one."""

    def downloads(**case: Any) -> float:
        figures = sensitivity._figures(TINY, sensitivity.Case("", **case), ["bus_cache"], 1, 1)
        return figures["bus_cache"]["downloads"]

    usual = downloads()
    assert downloads(options={"image_cache_weigher": {"multiplier": 0}}) > usual
    assert downloads(constants={"weigher.policy.HELD": 0.0}) > usual
    assert downloads(assumed={"host_ram": 32_768}) != usual


def test_what_a_process_knows_of_its_own_decisions(monkeypatch: pytest.MonkeyPatch) -> None:
    """All, named rightly, where there is one process; of two it does not see the other's."""
    hosts, shape = TINY
    monkeypatch.setattr(sensitivity, "CLOUD", (hosts, {**shape, "days": 0.0005}))
    alone, both = sensitivity._seen(1, 11), sensitivity._seen(2, 11)
    assert alone.own > 0
    assert (alone.others, alone.wrong, both.wrong) == (0, 0, 0)
    assert alone.known >= 0.9 * alone.own
    assert both.others > 0


def test_bursts_are_found_in_one_request_and_in_many() -> None:
    """20 servers of an image within a minute, 19 are none, with no gap above 10 s."""
    many = [request(100 + 3 * index, "b") for index in range(20)]
    apart = [request(1000 + 11 * index, "c") for index in range(20)]
    few = request(9000, "d", count=19)
    steady = [request(1500 + 9 * index, "e") for index in range(200)]
    found = trace.bursts([request(0, count=20), request(1), *many, *apart, *steady, few])
    assert found[:2] == [0, 0]
    assert len(set(found[2:22])) == 1
    assert found[2] not in (None, 0)
    assert set(found[22:]) == {None}


def test_percentiles_are_values_that_were_there() -> None:
    """The nearest rank."""
    values = [float(value) for value in range(1, 101)]
    assert [percentile(values, part) for part in (50, 95, 99)] == [50, 95, 99]
    assert percentile([7.0], 99) == 7.0
    assert math.isclose(percentile([], 50), 0.0)


@pytest.mark.parametrize("ram_gib", [1, 4, 16])
@pytest.mark.parametrize("filled", [0.0, 0.6])
@pytest.mark.parametrize("requests", [1, 100])
def test_a_burst_of_an_image_that_no_host_has(ram_gib: int, filled: float, requests: int) -> None:
    """100 servers at once: neither 100 downloads nor a pile on one host, whatever they take, and
    however full alike hosts are; in one request, or in 100 that see nothing of each other."""
    env = simpy.Environment()
    cloud = make_cloud(env, 100)
    other = Request(0, None, "z", SIZE, 4, round(filled * 262_144), 40, 1)
    if filled:
        for host in cloud.hosts:
            host.claim(other)
            host.allocate(other)
    weighers = [*nova_scheduler.default_weighers(), policies.bus_cache(cloud.index)]
    worker = nova_scheduler.Worker(cloud.hosts, weighers, 1)
    server = Request(0, None, "a", SIZE, 2, ram_gib * 1024, 20, 100 // requests)
    landed: Counter[str] = Counter()
    for _ in range(requests):
        choice = worker.begin(server)
        for _ in range(server.count):
            host = choice.best()
            assert host is not None
            choice.consume()
            landed[host.name] += 1
        del choice
    assert 25 <= len(landed) <= 34
    assert max(landed.values()) <= 4


def test_every_parameter_has_a_source() -> None:
    """What is said to be Nova's default is it."""
    entries = yaml.safe_load(parameters.FILE.read_text(encoding="utf-8"))
    defaults = {
        (str(group or "DEFAULT"), option.dest): option.default
        for group, options in [*nova_options(), *messaging_options()]
        for option in options
    }
    compared = 0
    for name, entry in entries.items():
        assert entry.keys() == {"value", "unit", "source"}, name
        assert len(entry["source"]) > len("assumed"), name
        if said := re.match(r"nova: \[(\w+)\] (\w+)", entry["source"]):
            assert entry["value"] == defaults[said[1], said[2]], name
            compared += 1
    assert compared == 6


def test_a_wrong_parameter_is_refused() -> None:
    with pytest.raises(ValueError, match="host_ram is 0"):
        parameters.load(host_ram=0)
