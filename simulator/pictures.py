"""Pictures of outcomes, each as PNG and SVG; ``python -m simulator.pictures``: of the policy."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib

matplotlib.use("Agg")  # no display is needed
matplotlib.rcParams["svg.hashsalt"] = "bus-cache"  # the same bytes for the same picture

from matplotlib import pyplot  # noqa: E402 - after the choice above
from oslo_config import cfg  # noqa: E402

from bus_cache.conf import image_cache_weigher  # noqa: E402
from simulator.run import Outcome, percentile  # noqa: E402
from weigher import policy  # noqa: E402

_POINTS = 500


def draw(outcomes: Mapping[str, Outcome], folder: pathlib.Path) -> None:
    """Draw what shows one trace over its time, or boot by boot."""
    folder.mkdir(parents=True, exist_ok=True)
    _boot_times(outcomes, folder / "boot-times")
    _traffic(outcomes, folder / "glance-traffic")
    _heat(outcomes, folder / "host-load")


def draw_policy(folder: pathlib.Path) -> None:
    """Draw the weigher's policy with its default options."""
    folder.mkdir(parents=True, exist_ok=True)
    conf = cfg.ConfigOpts()
    conf.register_opts(image_cache_weigher.OPTIONS, image_cache_weigher.GROUP)
    conf([])
    policy_shares(policy.options(conf[image_cache_weigher.GROUP]), folder / "policy")


def plane(figures: Mapping[str, Sequence[Mapping[str, float]]], path: pathlib.Path) -> None:
    """Draw bytes against imbalance: a point per policy, the mean of its runs; small, each run."""
    figure, axes = pyplot.subplots(figsize=(7, 5), layout="constrained")
    for index, (name, runs) in enumerate(figures.items()):
        sent = [each["bytes_from_glance"] / 1e12 for each in runs]
        uneven = [each["ram_cv"] for each in runs]
        color = f"C{index}"
        if len(runs) > 1:
            axes.scatter(sent, uneven, s=8, color=color, alpha=0.4)
        axes.scatter(
            sum(sent) / len(sent), sum(uneven) / len(uneven), s=60, color=color, label=name
        )
    axes.set(xlabel="TB from Glance", ylabel="imbalance: RAM cv over hosts", xlim=0, ylim=0)
    axes.legend(fontsize=8)
    _save(figure, path)


def _boot_times(outcomes: Mapping[str, Outcome], path: pathlib.Path) -> None:
    figure, axes = pyplot.subplots(figsize=(7, 5), layout="constrained")
    for name, outcome in outcomes.items():
        shares = [part / _POINTS for part in range(_POINTS + 1)]
        boots = [percentile(outcome.boots, 100 * share) for share in shares]
        axes.plot(boots, shares, label=name, linewidth=1.2)
    axes.set(xscale="log", xlabel="seconds to ACTIVE", ylabel="share of servers", ylim=(0, 1))
    axes.legend(fontsize=8)
    _save(figure, path)


def _traffic(outcomes: Mapping[str, Outcome], path: pathlib.Path) -> None:
    figure, all_axes = pyplot.subplots(
        len(outcomes),
        sharex=True,
        sharey=True,
        figsize=(8, 1.2 * len(outcomes)),
        squeeze=False,
        layout="constrained",
    )
    for (axes,), (name, outcome) in zip(all_axes, outcomes.items(), strict=True):
        hours = [index * outcome.interval / 3600 for index in range(len(outcome.traffic))]
        axes.fill_between(hours, [sent * 8 / outcome.interval / 1e9 for sent in outcome.traffic])
        axes.set_title(name, fontsize=8, loc="left", pad=2)
    all_axes[-1][0].set_xlabel("hours")
    figure.supylabel("Gbit/s from Glance", fontsize=9)
    _save(figure, path)


def _heat(outcomes: Mapping[str, Outcome], path: pathlib.Path) -> None:
    """Allocated RAM: a line of pixels per host, the hosts in their own order."""
    figure, all_axes = pyplot.subplots(
        len(outcomes),
        sharex=True,
        figsize=(8, 1.4 * len(outcomes)),
        squeeze=False,
        layout="constrained",
    )
    most = max(max(map(max, outcome.ram)) for outcome in outcomes.values())
    image = None
    for (axes,), (name, outcome) in zip(all_axes, outcomes.items(), strict=True):
        hours = len(outcome.ram) * outcome.interval / 3600
        image = axes.imshow(
            list(zip(*outcome.ram, strict=True)),
            aspect="auto",
            vmin=0,
            vmax=most,
            extent=(0, hours, len(outcome.ram[0]), 0),
            interpolation="nearest",
        )
        axes.set_title(name, fontsize=8, loc="left", pad=2)
        axes.set_yticks([])
    all_axes[-1][0].set_xlabel("hours")
    figure.supylabel("hosts", fontsize=9)
    if image is not None:
        figure.colorbar(image, ax=all_axes[:, 0].tolist(), label="MiB allocated")
    _save(figure, path)


def policy_shares(options: policy.Options, path: pathlib.Path) -> None:
    """Draw a host's weight over each of what it depends on, with all else at its best."""
    figure, (by_size, by_builds, by_room) = pyplot.subplots(
        1, 3, sharey=True, figsize=(10, 3.2), layout="constrained"
    )
    mib = [step * 5 for step in range(1, 601)]
    saved = [policy.saving(each * policy.MIB, *options[:2]) for each in mib]
    for there, name in ((policy.HELD, "held"), (policy.COMING, "on its way")):
        by_size.plot(mib, [there * each for each in saved], label=name)
    by_size.legend(fontsize=8)
    by_size.set(xlabel="the image's size, MiB", ylabel="weight", ylim=(0, 1.05))

    builds = range(int(options.most_builds) + 3)
    by_builds.plot(builds, [policy.idleness(each, options.most_builds) for each in builds], "o-")
    by_builds.set(xlabel="builds on the host")

    lacking = [step / 1000 for step in range(-10, 81)]
    for gib, name in ((1, "1 GiB"), (2, "2 GiB"), (8, "8 GiB and more")):
        one = policy.Candidates([policy.HELD], [0], [1.0])
        lack = policy.scale(gib * 2**30, 0, options, one).lack_mb
        by_room.plot(
            [100 * each for each in lacking],
            [policy.room(each, lack) for each in lacking],
            label=name,
        )
    by_room.legend(title="image of", fontsize=8, title_fontsize=8)
    by_room.set(xlabel="free RAM that it lacks of the mean,\n% of the largest free RAM")
    _save(figure, path)


def _save(figure: Any, path: pathlib.Path) -> None:
    # with_suffix would cut "zipf-0.9" at its point
    figure.savefig(f"{path}.png", dpi=110, metadata={"Software": None})
    figure.savefig(f"{path}.svg", metadata={"Date": None})
    pyplot.close(figure)


if __name__ == "__main__":
    draw_policy(pathlib.Path("docs/placement"))
