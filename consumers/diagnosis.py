"""What is wrong with a set-up, judged by what was seen of it: symptoms in, findings out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from bus_cache import protocol
from consumers.symptoms import Api, Bus, Facts, Nova, Redis, Sound

OK, WARNING, PROBLEM, NOT_CHECKED = "ok", "warning", "problem", "not checked"
"""Verdicts."""

MOST_SKEW = 60.0
"""Seconds that clocks may differ: what :data:`consumers.reconcile.MARGIN` allows for."""

BUDGETS = (0.005, 0.5)
"""Seconds of a ``time_budget`` that make sense: below, a good answer is too late now and then;
above, a Redis that is away is felt in boots."""

_SHOWN = 5
_ALL_WEIGHERS = "nova.scheduler.weights."
_WEIGHER = "weigher.ImageCacheWeigher"
_NOT_HEARD_OF = "see why in the rows above"


class Finding(NamedTuple):
    """A row: what was checked, the verdict, what was found, and what to do."""

    check: str
    verdict: str
    found: str
    advice: str = ""


def diagnose(facts: Facts) -> list[Finding]:
    """Return all findings, in the order in which one would look."""
    found: list[Finding] = []
    for name, judge in _JUDGES:
        try:
            found += judge(facts)
        except Exception as error:  # one check that fails must not hide the others
            found.append(_failed(name, error))
    return found


def is_wrong(findings: Sequence[Finding]) -> bool:
    """Tell whether anything is."""
    return any(each.verdict in (WARNING, PROBLEM) for each in findings)


def _failed(check: str, error: Exception) -> Finding:
    said = f"this check failed in a way that it does not know: {type(error).__name__}: {error}"
    return Finding(check, PROBLEM, said, "a bug of bus-cache's: report it")


def _options(facts: Facts) -> Iterator[Finding]:
    options = facts.options
    for trouble in filter(None, (options.trouble, options.bus_trouble)):
        yield Finding("options", PROBLEM, trouble, "correct the configuration, then run this again")
    for each in options.unknown:
        advice = "correct its name, or take it out"
        yield Finding("options", PROBLEM, each, advice)
    if not (options.trouble or options.bus_trouble or options.unknown):
        yield Finding("options", OK, "all are known and can be used")


def _redis(facts: Facts) -> Iterator[Finding]:
    seen = facts.redis
    if facts.options.trouble:
        yield Finding("redis", NOT_CHECKED, "the configuration can't be used", _NOT_HEARD_OF)
        return
    if seen.trouble:
        yield Finding(
            "redis", PROBLEM, f"{seen.where}: {seen.trouble}", _redis_advice(seen.trouble)
        )
        return
    yield Finding("redis", OK, f"{seen.where} answers, and the index can be read")
    yield from _schema(seen)
    if seen.evicts:
        yield Finding(
            "redis eviction",
            PROBLEM,
            f"maxmemory-policy is {seen.evicts}: keys that it evicts make the index wrong",
            "CONFIG SET maxmemory-policy noeviction, and in redis.conf",
        )
    elif seen.journal is not None:
        yield Finding("redis eviction", OK, "no key is evicted")
    yield from _persistence(seen)
    yield from _redis_clock(seen)
    if seen.full:
        limits = ", ".join(f"{limit} ({left_out} left out)" for limit, left_out in seen.full)
        yield Finding(
            "limits",
            WARNING,
            f"limits of the index were reached: {limits}",
            "does somebody make names up, or do clouds share a keyspace? docs/bounds.md",
        )


def _schema(seen: Redis) -> Iterator[Finding]:
    if seen.schema_trouble:
        yield Finding(
            "redis schema", PROBLEM, seen.schema_trouble, "docs/deployment.md, 'Upgrading'"
        )
        return
    if seen.refuses is None:
        yield Finding(
            "redis rights",
            NOT_CHECKED,
            "the keyspace has not been written yet, and nothing is written to try it",
            "start bus-cache-consumer, then run this again",
        )
    elif seen.refuses:
        yield Finding("redis rights", PROBLEM, seen.refuses, _redis_advice(seen.refuses))
    else:
        yield Finding("redis rights", OK, "the index can be written")


def _redis_advice(reason: str) -> str:
    for words, advice in (
        (
            ("NOAUTH", "WRONGPASS", "NOPERM", "ermission", "invalid username"),
            "user, password and rights: docs/redis.md, etc/redis/users.acl",
        ),
        (("OOM", "maxmemory"), "it has no memory left: raise maxmemory"),
        (("READONLY", "read only"), "that is a replica: name the master, or Sentinels"),
        (("MISCONF",), "it can't save: its log, and the space on its disk"),
        (("ertificate", "SSL"), "docs/redis.md, 'TLS'"),
    ):
        if any(word in reason for word in words):
            return advice
    return "does it run, is [bus_cache] redis_url right, and does a firewall let us through?"


def _persistence(seen: Redis) -> Iterator[Finding]:
    if seen.unsaved:
        yield Finding(
            "redis persistence",
            PROBLEM,
            "its last attempt to save failed: it will refuse to write",
            "Redis' log, and the space on its disk",
        )
    elif seen.journal is False:
        yield Finding(
            "redis persistence",
            WARNING,
            "appendonly is off: after a restart of Redis the index is old or empty",
            "appendonly yes; without it agents tell it again, and the rest comes boot by boot "
            "or by bus-cache sync",
        )
    elif seen.journal:
        yield Finding("redis persistence", OK, "appendonly is on")


def _redis_clock(seen: Redis) -> Iterator[Finding]:
    if seen.ahead is None:
        yield Finding("redis clock", NOT_CHECKED, "Redis does not tell its time", "redis-cli TIME")
    elif abs(seen.ahead) > MOST_SKEW:
        yield Finding("redis clock", PROBLEM, f"Redis' clock is {_skew(seen.ahead)}", "chrony, NTP")
    else:
        yield Finding("redis clock", OK, "it agrees with ours")


def _buses(facts: Facts) -> Iterator[Finding]:
    if not facts.buses:
        yield Finding("bus", NOT_CHECKED, "no bus is configured", _NOT_HEARD_OF)
    for bus in facts.buses:
        yield from _bus(bus)
        if bus.usable:
            yield from _declarations(facts, bus)
            yield from _queues(facts, bus)
    yield from _nova_declarations(facts)


def _bus(bus: Bus) -> Iterator[Finding]:
    away = {broker: why for broker, why in bus.brokers.items() if why}
    for broker, why in away.items():
        yield Finding(
            "bus",
            PROBLEM,
            f"{broker}: {why}",
            _bus_advice(why) + ("; another broker of this bus answers" if bus.usable else ""),
        )
    if bus.trouble:
        yield Finding("bus", PROBLEM, f"{bus.where}: {bus.trouble}", "is the broker well? Its log")
    elif not away:
        yield Finding("bus", OK, f"{bus.where} answers")
    if not bus.usable:
        return
    if bus.refused:
        yield Finding(
            "bus rights",
            PROBLEM,
            f"{bus.where}: {bus.refused}",
            "docs/security.md, and etc/rabbitmq/permissions.sh: configure and write ^bus_cache (or "
            "as your pool begins), read that and Nova's and Glance's exchanges",
        )
    elif bus.sound is not None:
        yield Finding("bus rights", OK, f"{bus.where}: a queue could be declared, bound and read")


def _bus_advice(why: str) -> str:
    if "ACCESS_REFUSED" in why or "403" in why:
        return "user and password of transport_url; rabbitmqctl list_users"
    if "NOT_ALLOWED" in why or "530" in why:
        return (
            "the virtual host of transport_url, and who may enter it: rabbitmqctl list_permissions"
        )
    if "ertificate" in why or "SSL" in why:
        return "[oslo_messaging_rabbit] ssl and ssl_ca_file: docs/security.md, 'TLS'"
    return "does it run, is transport_url right, and does a firewall let us through?"


def _declarations(facts: Facts, bus: Bus) -> Iterator[Finding]:
    if bus.absent:
        all_ = set(bus.absent) >= set(facts.options.exchanges)
        yield Finding(
            "exchanges",
            PROBLEM if all_ else WARNING,
            f"{bus.where}: there is no exchange {', '.join(bus.absent)}",
            "is this the broker and virtual host of Nova's and Glance's notifications? Compare "
            "[consumer] exchanges with their control_exchange. A service declares its exchange "
            "with its first notification",
        )
    elif bus.looks:
        yield Finding("exchanges", OK, f"{bus.where}: {', '.join(facts.options.exchanges)}")
    for name, difference in bus.others.items():
        ours = name == facts.options.pool
        yield Finding(
            "declarations",
            WARNING if ours else PROBLEM,
            f"{bus.where}: {name} is there with other properties than the configuration asks for: "
            f"{difference}",
            "it is used as it is; docs/deployment.md, 'Upgrading, and when durability changes'"
            if ours
            else "let [oslo_messaging_rabbit] say what it says in nova.conf: what is absent one "
            "day is declared by it, and Nova refused (406)",
        )
    if bus.unjudged:
        yield Finding(
            "declarations",
            NOT_CHECKED,
            f"{bus.where}: this user may not ask about {', '.join(bus.unjudged)}",
            "rabbitmqctl list_exchanges -p VHOST name durable auto_delete, and compare with "
            "[oslo_messaging_rabbit]; or --nova-conf",
        )
    if bus.looks and not (bus.others or bus.unjudged):
        yield Finding("declarations", OK, f"{bus.where}: as [oslo_messaging_rabbit] says")


def _nova_declarations(facts: Facts) -> Iterator[Finding]:
    nova = facts.nova
    if nova is None or nova.trouble or nova.rabbit is None or not facts.ours:
        return
    theirs = nova.rabbit
    same = [each for each in facts.ours if set(each.brokers) & set(theirs.brokers)]
    ours = (same or facts.ours)[0]
    differ = [
        f"{name} is {ours.declares.get(name)} here and {value} there"
        for name, value in theirs.declares.items()
        if ours.declares.get(name) != value
    ]
    if differ:
        yield Finding(
            "declarations",
            PROBLEM,
            f"[oslo_messaging_rabbit] is not as in {nova.files}: {'; '.join(differ)}",
            "write the same there: what the consumer declares, Nova must be able to use",
        )
    else:
        yield Finding("declarations", OK, f"[oslo_messaging_rabbit] is as in {nova.files}")


def _queues(facts: Facts, bus: Bus) -> Iterator[Finding]:
    if not bus.looks:
        return
    first, last = bus.looks[0], bus.looks[-1]
    for name, now in last.items():
        before = first.get(name) or now
        agents = name == protocol.QUEUE
        if now is None:
            if not agents:
                yield Finding(
                    "queue",
                    PROBLEM,
                    f"{bus.where}: there is no queue {name}",
                    "no bus-cache-consumer has read this bus, or none for longer than "
                    "[consumer] queue_expires: start one",
                )
            continue
        about = f"{bus.where}: {name} has {now.messages} messages, and {_readers(now.consumers)}"
        if not now.consumers and (not agents or now.messages):
            yield Finding(
                "queue",
                PROBLEM,
                about,
                "start bus-cache-consumer; if it runs, its log says what it waits for (Redis?)"
                if not agents
                else "agents speak, and no consumer hears them: its log says which right it lacks",
            )
        elif before is not None and now.messages > before.messages + 1000:
            yield Finding(
                "queue",
                WARNING,
                f"{about}; {before.messages} a while ago",
                "the consumer is too slow: its log, Redis' latency; run a second consumer",
            )
        else:
            yield Finding("queue", OK, about)
        yield from _strangers(
            facts, bus, name, min(each.consumers for each in (before or now, now))
        )


def _readers(count: int) -> str:
    if count < 2:
        return "1 consumer reads it" if count else "nobody reads it"
    return f"{count} consumers read it"


def _strangers(facts: Facts, bus: Bus, name: str, count: int) -> Iterator[Finding]:
    """Tell whether more read a queue than consumers say, in Redis, that they do.

    A broker tells only how many read a queue, and what one of them is handed the others do not
    get.
    """
    if facts.redis.trouble or facts.redis.hosts is None or not count:
        return
    known = sum(
        where == bus.identity and (pool == facts.options.pool or name == protocol.QUEUE)
        for where, pool in facts.redis.readers.values()
    )
    if count > known:
        yield Finding(
            "readers",
            PROBLEM,
            f"{bus.where}: {count} read {name}, but {known} bus-cache-consumers do, as far as this "
            "index knows: the others take messages from them",
            "rabbitmqctl list_consumers -p VHOST; another service or keyspace needs a queue of its "
            "own (another [consumer] pool). Not known either: a consumer that waits for Redis, is "
            "of an older version, or names other brokers of this bus",
        )
    else:
        yield Finding("readers", OK, f"{bus.where}: only bus-cache-consumers read {name}")


def _unread(facts: Facts) -> Iterator[Finding]:
    for bus in facts.buses:
        if len(bus.unread) < 2:
            continue
        before, now = bus.unread[0], bus.unread[-1]
        growing = {name: n for name, n in now.items() if n > before.get(name, 0)}
        if growing:
            yield Finding(
                "unread queues",
                NOT_CHECKED,  # Nova's default: it grows until the bound that README asks for
                f"{bus.where}: nobody reads {_listed(growing)}, and in {bus.seconds} s it grew; "
                "whether a policy bounds it can't be seen from here",
                "rabbitmqctl list_operator_policies -p VHOST: without one it stops the broker one "
                "day. README, 'Queues'",
            )
        elif now:
            yield Finding(
                "unread queues",
                OK,
                f"{bus.where}: nobody reads {_listed(now)}; in {bus.seconds} s it did not grow",
                "let an operator policy bound it: README, 'Queues'",
            )
        else:
            yield Finding("unread queues", OK, f"{bus.where}: none")


def _listed(queues: Mapping[str, int]) -> str:
    return ", ".join(f"{name} ({n} messages)" for name, n in sorted(queues.items()))


def _notifications(facts: Facts) -> Iterator[Finding]:
    for bus in facts.buses:
        if bus.sound is None:
            if bus.usable:
                yield Finding(
                    "notifications",
                    NOT_CHECKED,
                    f"{bus.where}: {bus.listening or 'could not be listened to'}",
                    _NOT_HEARD_OF,
                )
            continue
        yield from _heard(facts.options.topics, bus, bus.sound)
    yield from _nova_notifications(facts)


def _heard(topics: Sequence[str], bus: Bus, sound: Sound) -> Iterator[Finding]:
    kinds = sound.kinds
    if not kinds:
        yield Finding(
            "notifications",
            WARNING,
            f"{bus.where}: none in {bus.seconds} s",
            "boot a server while this runs (--seconds 120). Still none: [oslo_messaging_"
            "notifications] driver = messagingv2 in nova.conf of all Nova services, which were "
            "restarted since; is it the broker and virtual host of their notifications?",
        )
        return
    said = ", ".join(
        f"{service} {'versioned' if versioned else 'unversioned'} on {exchange}/{topic} ({n})"
        for (exchange, topic, versioned, service), n in kinds.most_common(10)
    )
    missed = sorted({topic for _, topic, _, _ in kinds} - set(topics))
    heard = {versioned for exchange, topic, versioned, _ in kinds if exchange != "glance"}
    about = f"{bus.where}: in {bus.seconds} s: {said}"
    if missed and not {topic for _, topic, _, _ in kinds} & set(topics):
        yield Finding(
            "notifications",
            PROBLEM,
            f"{about}. None of these topics is read",
            f"[consumer] topics = {','.join(missed)}",
        )
    elif heard == {False}:
        yield Finding(
            "notifications",
            WARNING,
            f"{about}. Unversioned ones only: rescues, pre-caching and deleted compute services "
            "are not told",
            "[notifications] notification_format = versioned (or both) in nova.conf",
        )
    else:
        yield Finding("notifications", OK, about)


def _nova_notifications(facts: Facts) -> Iterator[Finding]:
    nova, check = facts.nova, "notifications in nova.conf"
    if nova is None:
        yield Finding(check, NOT_CHECKED, "no nova.conf was given", "--nova-conf FILE")
        return
    if nova.trouble:
        yield Finding(check, PROBLEM, nova.trouble, "correct it, or name another file")
        return
    wrong = False
    if not set(nova.drivers) & {"messaging", "messagingv2"}:
        wrong = True
        yield Finding(
            check,
            PROBLEM,
            f"{nova.files}: [oslo_messaging_notifications] driver is {_or_empty(nova.drivers)}: "
            "nothing is sent",
            "driver = messagingv2, and restart the service",
        )
    if not nova.spoken & set(facts.options.topics):
        wrong = True
        yield Finding(
            check,
            PROBLEM,
            f"{nova.files}: [notifications] notification_format = {nova.format} is sent to "
            f"{_or_empty(sorted(nova.spoken))}, and [consumer] topics is "
            f"{','.join(facts.options.topics)}",
            "let one topic be the same",
        )
    if nova.rabbit_trouble:
        wrong = True
        yield Finding(check, PROBLEM, f"{nova.files}: {nova.rabbit_trouble}", "correct it")
    elif nova.rabbit is not None and facts.ours:
        read = {broker for ours in facts.ours for broker in ours.brokers}
        if not read & set(nova.rabbit.brokers):
            wrong = True
            yield Finding(
                check,
                PROBLEM,
                f"{nova.files}: notifications go to {nova.rabbit.where}, and we read "
                f"{', '.join(each.where for each in facts.ours)}",
                "[consumer] transport_url must name it, too; if it does by another name, write "
                "it alike",
            )
    if nova.retry < 0 and not wrong:
        wrong = True
        yield Finding(
            check,
            WARNING,
            f"{nova.files}: [oslo_messaging_notifications] retry is {nova.retry}: boots wait for a "
            "broker that is gone",
            "retry = 3",
        )
    if not wrong:
        yield Finding(
            check, OK, f"{nova.files}: {nova.format}, to {', '.join(sorted(nova.spoken))}"
        )


def _or_empty(values: Sequence[str]) -> str:
    return ",".join(values) or "empty"


def _clocks(facts: Facts) -> Iterator[Finding]:
    ahead = {who: skew for bus in facts.buses if bus.sound for who, skew in bus.sound.ahead.items()}
    wrong = {who: skew for who, skew in ahead.items() if abs(skew) > MOST_SKEW}
    if wrong:
        worst = sorted(wrong.items(), key=lambda each: -abs(each[1]))[:_SHOWN]
        yield Finding(
            "clocks",
            PROBLEM,
            f"by the stamps of {len(wrong)} of {len(ahead)} publishers: "
            + ", ".join(f"{who} is {_skew(skew)}" for who, skew in worst),
            "chrony or NTP there, or here; a message that was held back for long looks the same",
        )
    elif ahead:
        yield Finding("clocks", OK, f"{len(ahead)} publishers' stamps agree with our clock")
    else:
        yield Finding("clocks", NOT_CHECKED, "nothing was heard", "--seconds 120")


def _skew(seconds: float) -> str:
    return f"{abs(seconds):.0f} s {'ahead of' if seconds > 0 else 'behind'} ours"


def _weigher(facts: Facts) -> Iterator[Finding]:
    nova = facts.nova
    if nova is None or nova.trouble:
        yield Finding(
            "weigher",
            NOT_CHECKED,
            "no nova.conf of nova-scheduler was given" if nova is None else nova.trouble,
            "--nova-conf FILE, on nova-scheduler's machine",
        )
        return
    yield from _weight_classes(nova)
    for each in nova.unknown:
        yield Finding("weigher options", PROBLEM, each, "correct its name, or take it out")
    if nova.weigher_trouble:
        yield Finding(
            "weigher options",
            PROBLEM,
            f"{nova.files}: {nova.weigher_trouble}",
            "correct it and restart nova-scheduler: until then cached images weigh nothing",
        )
        return
    yield from _weigher_options(facts, nova)


def _weight_classes(nova: Nova) -> Iterator[Finding]:
    classes = ",".join(nova.weight_classes)
    if _WEIGHER not in nova.weight_classes:
        yield Finding(
            "weigher",
            PROBLEM,
            f"{nova.files}: [filter_scheduler] weight_classes = {classes}: ours is not in it",
            f"append it: weight_classes = {classes},{_WEIGHER}; or is this another service's file?",
        )
    elif not any(each.startswith(_ALL_WEIGHERS) for each in nova.weight_classes):
        yield Finding(
            "weigher",
            PROBLEM,
            f"{nova.files}: [filter_scheduler] weight_classes = {classes} has none of Nova's own "
            "weighers: RAM, CPU and failed builds count for nothing",
            f"weight_classes = {_ALL_WEIGHERS}all_weighers,{_WEIGHER}",
        )
    else:
        yield Finding("weigher", OK, f"{nova.files}: it is in weight_classes")
    yield Finding(
        "weigher installed",
        NOT_CHECKED,
        "whether nova-scheduler can import it can't be seen from here",
        "in nova-scheduler's own environment: python3 -c 'import weigher'; its log at start says "
        "'Cached images are looked up at'",
    )


def _weigher_options(facts: Facts, nova: Nova) -> Iterator[Finding]:
    wrong = False
    if facts.redis_target and (nova.redis, nova.keyspace) != (facts.redis_target, facts.keyspace):
        wrong = True
        yield Finding(
            "weigher options",
            PROBLEM,
            f"{nova.files}: the weigher reads keyspace {nova.keyspace} in {nova.redis}, and the "
            f"consumer writes {facts.keyspace} in {facts.redis_target}",
            "[bus_cache] redis_url and keyspace must name one index; if one server has two "
            "names, write it alike",
        )
    if not BUDGETS[0] <= nova.time_budget <= BUDGETS[1]:
        wrong = True
        yield Finding(
            "weigher options",
            WARNING,
            f"{nova.files}: [image_cache_weigher] time_budget is {nova.time_budget} s",
            f"from {BUDGETS[0]} (below, good answers come too late) to {BUDGETS[1]} (above, a "
            "Redis that is away is felt); 0.05 is the default",
        )
    if not nova.multiplier:
        wrong = True
        yield Finding(
            "weigher options",
            WARNING,
            f"{nova.files}: [image_cache_weigher] multiplier is 0: cached images weigh nothing",
            "fine if aggregates have image_cache_weight_multiplier in their metadata",
        )
    if not wrong:
        yield Finding("weigher options", OK, f"{nova.files}: they name the consumer's index")


def _agents(facts: Facts) -> Iterator[Finding]:
    seen = facts.redis
    if seen.hosts is None:
        yield Finding("agents", NOT_CHECKED, "the index can't be read", _NOT_HEARD_OF)
        return
    about = f"{seen.by_agent} speak, {seen.silent} are silent, {seen.gaps} were heard in part"
    if seen.silent or seen.gaps:
        yield Finding(
            "agents",
            WARNING,
            about,
            "bus-cache host list shows which; does bus-cache-agent run there (its log), on a bus "
            "that a consumer reads? Silent ones that were taken out for good: bus-cache sync "
            "--repair. Parts are asked for again within seconds",
        )
    else:
        yield Finding("agents", OK, about if seen.by_agent else "none speaks; none need to")


def _cacheless(facts: Facts) -> Iterator[Finding]:
    check, hosts, nova = "hosts without cache", facts.redis.hosts, facts.nova
    if hosts is None:
        yield Finding(check, NOT_CHECKED, "the index can't be read", _NOT_HEARD_OF)
        return
    ironic = sorted(set(hosts) & set(facts.api.ironic))
    if ironic:
        yield Finding(
            check,
            WARNING,
            f"{_some(ironic)} in the index {'are' if ironic[1:] else 'is'} Ironic's",
            "[consumer] ignore_hosts takes them out",
        )
    if nova is not None and nova.images_type == "rbd":
        there = nova.host in hosts
        yield Finding(
            check,
            WARNING if there else OK,
            f"{nova.files}: images_type = rbd: images that are in Ceph are not cached"
            + (f", and {nova.host} stands in the index" if there else ""),
            "[consumer] ignore_hosts takes such hosts out; not where Glance keeps images elsewhere",
        )
    elif not ironic and facts.api.asked and not facts.api.trouble:
        yield Finding(check, OK, "none of Ironic's in the index")
    if not facts.api.asked or facts.api.trouble:
        yield Finding(check, NOT_CHECKED, _api_trouble(facts.api), _API_ADVICE)


def _index(facts: Facts) -> Iterator[Finding]:
    api, check = facts.api, "index against nova"
    if facts.redis.hosts is None:
        yield Finding(check, NOT_CHECKED, "the index can't be read", _NOT_HEARD_OF)
    elif not api.asked:
        yield Finding(check, NOT_CHECKED, _api_trouble(api), _API_ADVICE)
    elif api.trouble:
        yield Finding(check, PROBLEM, api.trouble, _API_ADVICE)
    elif api.drift:
        kinds = ", ".join(f"{kind} {n}" for kind, n in sorted(api.drift.items()))
        yield Finding(
            check,
            WARNING,
            f"on {api.sampled} hosts, and of hosts without compute service: {kinds} "
            f"({'; '.join(api.examples[:_SHOWN])})",
            "bus-cache sync shows all, bus-cache sync --repair mends them; [consumer] cloud does "
            "so by itself",
        )
    elif not facts.redis.hosts:
        yield Finding(
            check,
            WARNING,
            "the index knows no host",
            "it learns them boot by boot; bus-cache sync fills it at once",
        )
    else:
        yield Finding(check, OK, f"no difference on {api.sampled} hosts")


_API_ADVICE = "--os-cloud NAME (clouds.yaml), or OS_*; the role admin. docs/sync.md"


def _api_trouble(api: Api) -> str:
    return api.trouble or "no credentials for Nova's API were given"


def _some(hosts: Sequence[str]) -> str:
    more = f" and {len(hosts) - _SHOWN} more" if len(hosts) > _SHOWN else ""
    return ", ".join(hosts[:_SHOWN]) + more


_JUDGES: Sequence[tuple[str, Callable[[Facts], Iterator[Finding]]]] = (
    ("options", _options),
    ("redis", _redis),
    ("bus", _buses),
    ("unread queues", _unread),
    ("notifications", _notifications),
    ("clocks", _clocks),
    ("weigher", _weigher),
    ("agents", _agents),
    ("hosts without cache", _cacheless),
    ("index against nova", _index),
)
