#!/bin/sh
# The least rights in RabbitMQ with which bus-cache works; docs/security.md says what each is for.
#
#   sh permissions.sh [VHOST]             rights of bus-cache-consumer and bus-cache-agent
#   sh permissions.sh VHOST NOVA_USER     and of Nova's user: all but what is ours
#
# All users must be there (rabbitmqctl add_user NAME). Without NOVA_USER nothing of Nova's user is
# changed; name it when consumers and agents run as the two others. It is the user of Nova's and Glance's
# services on this virtual host ("openstack" in Kolla), and is taken to have '.*' now. One that has less
# would get more here: do not name it, take ^bus_cache out of its own rights.
set -eu
vhost=${1:-/}
nova=${2:-}

users=$(rabbitmqctl -q list_users | cut -f1)
for user in bus-cache-consumer bus-cache-agent ${nova:+"$nova"}; do
    if ! printf '%s\n' "$users" | grep -qxF -e "$user"; then
        echo "permissions.sh: RabbitMQ has no user $user; nothing was changed" >&2
        exit 1
    fi
done

# Patterns of names of exchanges and queues: to declare or delete, to publish to or bind, to read.
rabbitmqctl set_permissions -p "$vhost" bus-cache-consumer \
    '^bus_cache' \
    '^bus_cache' \
    '^(bus_cache|nova$|glance$)'
# Of what is on Nova's and Glance's exchanges, RPC among it: nothing to publish, notifications to read.
rabbitmqctl set_topic_permissions -p "$vhost" bus-cache-consumer nova \
    '^$' '^(versioned_)?notifications\.(info|error)$'
rabbitmqctl set_topic_permissions -p "$vhost" bus-cache-consumer glance \
    '^$' '^(versioned_)?notifications\.(info|error)$'

rabbitmqctl set_permissions -p "$vhost" bus-cache-agent \
    '^bus_cache_(ask$|agent($|\.|_fanout))' \
    '^bus_cache($|_agent($|\.|_fanout_))' \
    '^bus_cache_(ask$|agent($|\.|_fanout))'

# What '.*' could, but for what is ours.
if [ -n "$nova" ]; then
    rabbitmqctl set_permissions -p "$vhost" "$nova" '^(?!bus_cache)' '^(?!bus_cache)' '^(?!bus_cache)'
fi
